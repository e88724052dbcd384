#include <stdint.h>

enum { ebb_smallest_page = 512, ebb_largest_page = 65536 };

// ebb_gap is what a page has between its cell pointers and its cells. If it has nothing there, the offsets are equal.
struct ebb_gap {
	int from, to;
};

// ebb_find_gap returns the gap of a page that is at an offset in a file of the given size. A page that is not one of a
// b-tree counts as having none, and so does page 1, which has the schema. Page numbers of the file's pointer map are
// understood as in a database with auto_vacuum and without reserved bytes.
struct ebb_gap ebb_find_gap(const unsigned char *page, int64_t size, int64_t offset, int64_t file_size);

// ebb_dirty_gap is like ebb_find_gap, but a gap that has only zeros counts as none.
struct ebb_gap ebb_dirty_gap(const unsigned char *page, int64_t size, int64_t offset, int64_t file_size);

// ebb_in_pointer_map reports whether a page belongs to the pointer map, which says for each page which other page
// refers to it.
int ebb_in_pointer_map(int64_t page, int64_t size);
