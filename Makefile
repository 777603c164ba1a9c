# pg_outbox: transactional outbox and inbox for PostgreSQL.
#
# An ordinary PGXS extension: make, make install, make installcheck, make clean
# and make dist work as usual and honour PG_CONFIG.  "make demo" and
# "make check" also work on a machine that has nothing but git and make; they
# live in scripts/ and are found in build.mk's counterpart, scripts/tasks.mk.

EXTENSION = pg_outbox
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pg_outbox.control)

MODULE_big = pg_outbox
SRCS := $(sort $(wildcard src/*.c src/common/*.c src/worker/*.c src/capture/*.c \
          src/log/*.c src/relay/*.c src/apply/*.c))
OBJS = $(SRCS:.c=.o)

FRAGMENTS := $(sort $(wildcard sql/extension/*.sql))
DATA_built = pg_outbox--$(EXTVERSION).sql

PG_CPPFLAGS = -I$(srcdir)/src -DOUTBOX_VERSION=\"$(EXTVERSION)\"
PG_CFLAGS = -std=gnu99 -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# Nothing here is inlined into compiled expressions: bitcode would only cost.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)
endif

pg_outbox--$(EXTVERSION).sql: $(FRAGMENTS) pg_outbox.control
	cat $(FRAGMENTS) > $@
