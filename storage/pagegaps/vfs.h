// ebb_register_vfs registers the VFS under a name, which must remain valid. It returns an error code of SQLite.
int ebb_register_vfs(const char *name);
