#include "vfs.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "gaps.h"

// The parts of SQLite's interface that are needed, as https://www.sqlite.org/c3ref/vfs.html and
// https://www.sqlite.org/c3ref/io_methods.html describe them. Functions that only SQLite calls are void pointers.
typedef struct sqlite3_file sqlite3_file;

typedef struct {
	int iVersion;
	int (*xClose)(sqlite3_file *);
	void *xRead;
	int (*xWrite)(sqlite3_file *, const void *, int, long long);
	void *xTruncate;
	int (*xSync)(sqlite3_file *, int);
	int (*xFileSize)(sqlite3_file *, long long *);
	void *version1[6], *version2[4], *version3[2];
} sqlite3_io_methods;

struct sqlite3_file {
	const sqlite3_io_methods *pMethods;
};

typedef struct sqlite3_vfs {
	int iVersion, szOsFile, mxPathname;
	struct sqlite3_vfs *pNext;
	const char *zName;
	void *pAppData;
	int (*xOpen)(struct sqlite3_vfs *, const char *, sqlite3_file *, int, int *);
	void *version1[11], *version2[1], *version3[3];
} sqlite3_vfs;

extern sqlite3_vfs *sqlite3_vfs_find(const char *);
extern int sqlite3_vfs_register(sqlite3_vfs *, int);

enum { OK = 0, ERROR = 1, NOMEM = 7, MISUSE = 21, SYNC_NORMAL = 2, OPEN_MAIN_DB = 0x100, known_version = 3 };

static sqlite3_vfs vfs;
static int (*open_file)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);

// SQLite's methods of database files, and a copy of them with a different xWrite. The first file that is opened
// determines them.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const sqlite3_io_methods *theirs;
static sqlite3_io_methods ours;

// The size of SQLite's part of an open file. Behind it is the number of pages that were written since the last sync.
static int their_size;

// portion is the number of pages after which a checkpoint syncs the file. SQLite would sync it once at the end, and only
// if no commit came in between. All that was written since the last time would go to the disk at once, and commits,
// which sync the log, would wait behind it.
enum { portion = 256 };

// write_page writes part of a database file. SQLite does so in a checkpoint only, once the file exists.
static int write_page(sqlite3_file *file, const void *page, int size, long long offset) {
	int err = theirs->xWrite(file, page, size, offset);
	int *unsynced = (int *)((char *)file + their_size);
	if (err != OK || ++*unsynced < portion) {
		return err;
	}
	*unsynced = 0;
	return theirs->xSync(file, SYNC_NORMAL);
}

// write_clean writes part of a database file. If it is a page with something in its gap, it writes a copy without it.
static int write_clean(sqlite3_file *file, const void *page, int size, long long offset) {
	long long file_size = 0;
	int err = theirs->xFileSize(file, &file_size);
	if (err != OK) {
		return err;
	}
	struct ebb_gap gap = ebb_dirty_gap(page, size, offset, file_size);
	if (gap.from == gap.to) {
		return write_page(file, page, size, offset);
	}
	char *copy = malloc(size);
	if (copy == NULL) {
		return NOMEM;
	}
	memcpy(copy, page, size);
	memset(copy + gap.from, 0, gap.to - gap.from);
	err = write_page(file, copy, size, offset);
	free(copy);
	return err;
}

// use_ours replaces the methods of an open database file, and returns 0 if they are not those of the first file.
static int use_ours(sqlite3_file *file) {
	pthread_mutex_lock(&mutex);
	if (theirs == NULL && file->pMethods->iVersion <= known_version) {
		memcpy(&ours, file->pMethods, sizeof ours);
		ours.xWrite = write_clean;
		theirs = file->pMethods;
	}
	int same = theirs == file->pMethods;
	pthread_mutex_unlock(&mutex);
	if (same) {
		file->pMethods = &ours;
	}
	return same;
}

static int open_clean(sqlite3_vfs *v, const char *name, sqlite3_file *file, int flags, int *out_flags) {
	int err = open_file(v, name, file, flags, out_flags);
	if (err != OK || !(flags & OPEN_MAIN_DB)) {
		return err;
	}
	if (use_ours(file)) {
		*(int *)((char *)file + their_size) = 0;
		return OK;
	}
	file->pMethods->xClose(file);
	file->pMethods = NULL; // the sign for SQLite that no file is open
	return ERROR;
}

int ebb_register_vfs(const char *name) {
	const sqlite3_vfs *standard = sqlite3_vfs_find(NULL);
	if (standard == NULL || standard->iVersion > known_version) {
		return MISUSE;
	}
	vfs = *standard;
	their_size = vfs.szOsFile;
	vfs.szOsFile += sizeof(int);
	open_file = vfs.xOpen;
	vfs.zName = name;
	vfs.xOpen = open_clean;
	vfs.pNext = NULL;
	return sqlite3_vfs_register(&vfs, 0);
}
