#include "gaps.h"

#include <string.h>

// The kinds of pages of a b-tree, which are the first bytes of these pages.
// Source: https://www.sqlite.org/fileformat2.html#b_tree_pages
enum { interior_index = 2, interior_table = 5, leaf_index = 10, leaf_table = 13 };

// pending_byte is the offset of the bytes that SQLite locks. The page that contains them is never used.
static const int64_t pending_byte = 0x40000000;

static int number(const unsigned char *at) { return at[0] << 8 | at[1]; }

// Source: https://www.sqlite.org/fileformat2.html#pointer_map_or_ptrmap_pages
int ebb_in_pointer_map(int64_t page, int64_t size) {
	const int entry_size = 5;
	int64_t per_page = size / entry_size + 1;
	int64_t map = (page - 2) / per_page * per_page + 2;
	if (map == pending_byte / size + 1) {
		map++;
	}
	return page == map;
}

struct ebb_gap ebb_find_gap(const unsigned char *page, int64_t size, int64_t offset, int64_t file_size) {
	const struct ebb_gap none = {0, 0};
	if (size < ebb_smallest_page || size > ebb_largest_page || (size & (size - 1)) != 0 || offset < size || offset % size != 0) {
		return none;
	}
	int header;
	switch (page[0]) {
	case interior_index:
	case interior_table:
		header = 12;
		break;
	case leaf_index:
	case leaf_table:
		header = 8;
		break;
	default:
		return none;
	}
	// Other pages than those of b-trees and the pointer map begin with the number of another page in four bytes. In a
	// file with so many pages that this number can begin with the kind (2: 64 GiB, with a margin for what is not
	// written yet; 13, which has the messages: 416 GiB), the two cannot be told apart.
	if ((int64_t)page[0] << 24 <= 2 * (file_size / size) || ebb_in_pointer_map(offset / size + 1, size)) {
		return none;
	}
	struct ebb_gap gap = {header + 2 * number(page + 3), number(page + 5)};
	if (gap.to == 0) {
		gap.to = ebb_largest_page;
	}
	return gap.from > gap.to || gap.to > size ? none : gap;
}

struct ebb_gap ebb_dirty_gap(const unsigned char *page, int64_t size, int64_t offset, int64_t file_size) {
	struct ebb_gap gap = ebb_find_gap(page, size, offset, file_size);
	const unsigned char *at = page + gap.from;
	size_t n = gap.to - gap.from;
	if (n > 0 && at[0] == 0 && memcmp(at, at + 1, n - 1) == 0) {
		gap.to = gap.from;
	}
	return gap;
}
