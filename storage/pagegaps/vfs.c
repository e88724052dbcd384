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
	int (*xRead)(sqlite3_file *, void *, int, long long);
	int (*xWrite)(sqlite3_file *, const void *, int, long long);
	int (*xTruncate)(sqlite3_file *, long long);
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

enum { OK = 0, ERROR = 1, NOMEM = 7, MISUSE = 21, SYNC_NORMAL = 2, known_version = 3 };
enum { OPEN_MAIN_DB = 0x100, OPEN_WAL = 0x80000 };

static sqlite3_vfs vfs;
static int (*open_file)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);

// A kind of files whose methods are replaced: SQLite's methods, and a copy of them with some that are different. The
// first file of a kind that is opened determines them.
struct kind {
	const sqlite3_io_methods *theirs;
	sqlite3_io_methods ours;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct kind database, wal;

// The size of SQLite's part of an open file. Behind it is what this file stores about it.
static int their_size;

// What is stored about a database file: the number of pages that were written since the last sync, and the size of the
// file before the first of them. ebb_find_gap does not need to know the size exactly.
struct database_file {
	int unsynced;
	long long size;
};

// What is stored about a write-ahead log: frames of an unfinished transaction that are not written yet.
struct log_file {
	long long end;         // the offset after the last write, with what was gathered
	char *bytes;           // what was gathered; NULL: nothing yet
	int used;              // its length
	int in_frame, in_last; // the last write was the header of a frame, and of the last one of a transaction
};

union our_file {
	struct database_file database;
	struct log_file log;
};

static void *ours_of(sqlite3_file *file) { return (char *)file + their_size; }

// portion is the number of pages after which a checkpoint syncs the file. SQLite would sync it once at the end, and only
// if no commit came in between. All that was written since the last time would go to the disk at once, and commits,
// which sync the log, would wait behind it.
enum { portion = 256 };

// write_page writes part of a database file. SQLite does so in a checkpoint only, once the file exists.
static int write_page(sqlite3_file *file, const void *page, int size, long long offset) {
	int err = database.theirs->xWrite(file, page, size, offset);
	struct database_file *f = ours_of(file);
	if (err != OK || ++f->unsynced < portion) {
		return err;
	}
	f->unsynced = 0;
	return database.theirs->xSync(file, SYNC_NORMAL);
}

// write_clean writes part of a database file. If it is a page with something in its gap, it writes a copy without it.
static int write_clean(sqlite3_file *file, const void *page, int size, long long offset) {
	struct database_file *f = ours_of(file);
	int err = f->unsynced == 0 ? database.theirs->xFileSize(file, &f->size) : OK;
	if (err != OK) {
		return err;
	}
	struct ebb_gap gap = ebb_dirty_gap(page, size, offset, f->size);
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

// A commit writes its frames to the log one after the other, each in two parts: a header and a page. To write many of
// them at once takes half the time. So they are gathered, and written when the last frame of the transaction is
// complete, or when anything else happens to the file. Until then nobody else reads them, because only the end of a
// commit makes its frames known to others.
enum { frame_header = 24, size_at = 4, gathered = 1 << 16 };

// put writes to the log. After an error, the next write is not added to what was gathered.
static int put(sqlite3_file *file, const void *data, int size, long long offset) {
	struct log_file *f = ours_of(file);
	int err = wal.theirs->xWrite(file, data, size, offset);
	f->end = err == OK ? offset + size : -1;
	return err;
}

// flush_log writes what was gathered.
static int flush_log(sqlite3_file *file) {
	struct log_file *f = ours_of(file);
	int n = f->used;
	f->used = f->in_frame = 0;
	return n == 0 ? OK : put(file, f->bytes, n, f->end - n);
}

// gather adds part of a frame to what was gathered.
static int gather(sqlite3_file *file, const void *data, int size) {
	struct log_file *f = ours_of(file);
	if (f->used + size > gathered) {
		int in_frame = f->in_frame, err = flush_log(file);
		if (err != OK) {
			return err;
		}
		f->in_frame = in_frame;
	}
	memcpy(f->bytes + f->used, data, size);
	f->used += size;
	f->end += size;
	return OK;
}

// write_log gathers a frame that follows the one before, and writes anything else at once.
static int write_log(sqlite3_file *file, const void *data, int size, long long offset) {
	struct log_file *f = ours_of(file);
	if (f->bytes == NULL && (f->bytes = malloc(gathered)) == NULL) {
		return NOMEM;
	}
	int err;
	if (offset == f->end && size == frame_header && !f->in_frame) {
		if ((err = gather(file, data, size)) == OK) {
			static const char none[4];
			f->in_frame = 1;
			f->in_last = memcmp((const char *)data + size_at, none, sizeof none) != 0;
		}
		return err;
	}
	if (offset == f->end && f->in_frame && size <= gathered / 2) {
		err = gather(file, data, size);
		f->in_frame = 0;
		return err == OK && f->in_last ? flush_log(file) : err;
	}
	err = flush_log(file);
	return err == OK ? put(file, data, size, offset) : err;
}

static int read_log(sqlite3_file *file, void *data, int size, long long offset) {
	int err = flush_log(file);
	return err == OK ? wal.theirs->xRead(file, data, size, offset) : err;
}

// truncate_log and close_log drop what was gathered, which can only belong to a transaction that was rolled back.
static int truncate_log(sqlite3_file *file, long long size) {
	struct log_file *f = ours_of(file);
	f->used = f->in_frame = 0;
	f->end = -1;
	return wal.theirs->xTruncate(file, size);
}

static int sync_log(sqlite3_file *file, int flags) {
	int err = flush_log(file);
	return err == OK ? wal.theirs->xSync(file, flags) : err;
}

static int size_of_log(sqlite3_file *file, long long *size) {
	int err = flush_log(file);
	return err == OK ? wal.theirs->xFileSize(file, size) : err;
}

static int close_log(sqlite3_file *file) {
	struct log_file *f = ours_of(file);
	free(f->bytes);
	f->bytes = NULL;
	return wal.theirs->xClose(file);
}

// use_ours replaces the methods of an open file, and returns 0 if they are not those of the first file of its kind.
static int use_ours(struct kind *k, sqlite3_file *file) {
	pthread_mutex_lock(&mutex);
	if (k->theirs == NULL && file->pMethods->iVersion <= known_version) {
		memcpy(&k->ours, file->pMethods, sizeof k->ours);
		if (k == &database) {
			k->ours.xWrite = write_clean;
		} else {
			k->ours.xWrite = write_log;
			k->ours.xRead = read_log;
			k->ours.xTruncate = truncate_log;
			k->ours.xSync = sync_log;
			k->ours.xFileSize = size_of_log;
			k->ours.xClose = close_log;
		}
		k->theirs = file->pMethods;
	}
	int same = k->theirs == file->pMethods;
	pthread_mutex_unlock(&mutex);
	if (same) {
		file->pMethods = &k->ours;
	}
	return same;
}

static int open_clean(sqlite3_vfs *v, const char *name, sqlite3_file *file, int flags, int *out_flags) {
	int err = open_file(v, name, file, flags, out_flags);
	if (err != OK || !(flags & (OPEN_MAIN_DB | OPEN_WAL))) {
		return err;
	}
	memset(ours_of(file), 0, sizeof(union our_file));
	if (use_ours(flags & OPEN_WAL ? &wal : &database, file)) {
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
	their_size = (vfs.szOsFile + 7) & ~7; // aligned, as what follows needs
	vfs.szOsFile = their_size + (int)sizeof(union our_file);
	open_file = vfs.xOpen;
	vfs.zName = name;
	vfs.xOpen = open_clean;
	vfs.pNext = NULL;
	return sqlite3_vfs_register(&vfs, 0);
}
