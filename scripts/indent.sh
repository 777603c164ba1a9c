#!/bin/bash
#
# indent.sh [--check] [FILE...]: lay out C code as PostgreSQL does, with
# pg_bsd_indent, pgindent's flags, and a list of the types that our sources use
# out of PostgreSQL's headers, librdkafka's and their own.  --check only shows
# what would change, and fails if anything would.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$ROOT"

check=no
if [ "${1:-}" = --check ]; then
	check=yes
	shift
fi
have pg_bsd_indent || scripts/setup.sh build lint

mapfile -t all < <(find . -path ./build -prune -o -name '*.[ch]' -print | sort)
files=("$@")
[ $# -gt 0 ] || files=("${all[@]}")

mkdir -p build
typedefs=build/typedefs.list
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C

make_typedefs()
{
	local headers

	headers=$("$(find_pg_config)" --includedir-server)
	grep -ohE '[A-Za-z_][A-Za-z0-9_]*' "${all[@]}" | sort -u >"$work/words"
	{
		printf '%s\0' "${all[@]}"
		find "$headers" /usr/include/librdkafka -name '*.h' -print0
	} | xargs -0 perl scripts/typedefs.pl >"$work/types"
	printf '%s\n' bool FILE va_list size_t ssize_t time_t pid_t >>"$work/types"
	sort -u "$work/types" | comm -12 - "$work/words" >"$typedefs"
}

# Block comments that start with a dashed line keep their layout; a function's
# return type has one blank before its asterisk.
lay_out()
{
	perl -pe 's{/\* +---}{/*---X_X}g' |
		pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 -l79 \
			-lp -lpl -nip -npro -sac -tpg -ts4 -U"$typedefs" 2>"$work/complaints" |
		perl -pe 's{/\*---X_X}{/* ---}g; s{\*/(/\*.*\*/)$}{*/\t$1}; s{^([A-Za-z_]\S*)[ \t]+\*$}{$1 *}'
}

make_typedefs
different=0
for file in "${files[@]}"; do
	lay_out <"$file" >"$work/indented"
	sed "s|^|$file: |" "$work/complaints" >&2
	if cmp -s "$file" "$work/indented"; then
		continue
	fi
	if [ "$check" = yes ]; then
		diff -u --label "$file" --label "$file, laid out" "$file" "$work/indented" || different=1
	else
		cat "$work/indented" >"$file"
		say "laid out $file"
	fi
done
exit $different
