# pg_outbox: transactional outbox and inbox for PostgreSQL.
#
# An ordinary PGXS extension: make, make install, make installcheck, make clean
# and make dist work as usual and honour PG_CONFIG.  "make demo", "make check"
# and the other TASKS also work on a machine that has nothing but git and make;
# they are in scripts/tasks.mk.

EXTENSION = pg_outbox
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" pg_outbox.control)

MODULE_big = pg_outbox
SRCS := $(sort $(wildcard src/*.c src/common/*.c src/worker/*.c src/capture/*.c \
          src/kafka/*.c src/log/*.c src/relay/*.c src/apply/*.c))
OBJS = $(SRCS:.c=.o)

# "make FUZZ=yes": with the targets of test/fuzz inside; never for use.
ifeq ($(FUZZ),yes)
OBJS += $(patsubst %.c,%.o,$(sort $(wildcard test/fuzz/*.c)))
SHLIB_LINK += $(FUZZ_LIBS)
endif

# The Kafka client is a library of its own, the only one linked with librdkafka;
# pg_outbox loads it when it first needs it (src/kafka/load.c).
KAFKA_SRCS := $(sort $(wildcard src/kafka/module/*.c))
KAFKA_OBJS = $(KAFKA_SRCS:.c=.o)
RDKAFKA_LIBS ?= -lrdkafka

FRAGMENTS := $(sort $(wildcard sql/extension/*.sql))
DATA_built = pg_outbox--$(EXTVERSION).sql
DATA = $(sort $(wildcard sql/upgrade/*.sql))

PG_CPPFLAGS = -I$(srcdir)/src -DOUTBOX_VERSION=\"$(EXTVERSION)\"
PG_CFLAGS = -std=gnu99 -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# Nothing here is inlined into compiled expressions: bitcode would only cost.
override with_llvm = no

# "make installcheck" runs these against a running server, in any PGXS manner;
# "make prove_installcheck" adds the TAP tests, which start servers themselves.
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=pg_outbox
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=pg_outbox
PROVE_TESTS = $(sort $(wildcard test/t/*.pl))

TASKS = setup check torture check-memory check-versions fuzz demo lint indent bench dist

ifneq ($(filter $(TASKS),$(MAKECMDGOALS)),)
include scripts/tasks.mk
else
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
SERVER_HEADER := $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h
ifeq ($(and $(wildcard $(PGXS)),$(wildcard $(SERVER_HEADER))),)
$(error No PostgreSQL to build for: "make setup" installs one, or set PG_CONFIG to its pg_config)
endif
include $(PGXS)

PG_PROVE_FLAGS += -I test/perl
.PHONY: prove_installcheck
prove_installcheck:
	$(prove_installcheck)

$(OBJS): $(wildcard src/*.h src/*/*.h test/fuzz/*.h)

KAFKA_LIB = pg_outbox_kafka$(DLSUFFIX)

all: $(KAFKA_LIB)
install: install-kafka
uninstall: uninstall-kafka
clean: clean-kafka

$(KAFKA_OBJS): CFLAGS += -fvisibility=hidden
$(KAFKA_OBJS): $(wildcard src/kafka/*.h src/kafka/module/*.h src/common/*.h)

$(KAFKA_LIB): $(KAFKA_OBJS)
	$(LINK.shared) -o $@ $(KAFKA_OBJS) $(LDFLAGS) $(LDFLAGS_SL) $(RDKAFKA_LIBS)

install-kafka: $(KAFKA_LIB) installdirs
	$(INSTALL_SHLIB) $(KAFKA_LIB) '$(DESTDIR)$(pkglibdir)/$(KAFKA_LIB)'

uninstall-kafka:
	rm -f '$(DESTDIR)$(pkglibdir)/$(KAFKA_LIB)'

clean-kafka:
	rm -f $(KAFKA_LIB) $(KAFKA_OBJS)

# Programs for tests and measurements; not installed.
build/mock_broker: test/kafka/mock_broker.c
build/kafka_admin: test/kafka/kafka_admin.c
build/rdkafka_bench: bench/rdkafka_bench.c
build/mock_broker build/kafka_admin build/rdkafka_bench:
	@mkdir -p build
	$(CC) $(CFLAGS) $(CPPFLAGS) -o $@ $< $(LDFLAGS) $(RDKAFKA_LIBS)

.PHONY: test-programs test-modules
test-programs: build/mock_broker build/kafka_admin build/rdkafka_bench

# Libraries that stand in for parts of the product, or drive them, in tests, and
# the SQL of earlier releases, from which tests upgrade.
test-modules:
	$(INSTALL_DATA) test/upgrade/*.sql '$(DESTDIR)$(datadir)/extension/'
	for dir in test/modules/*/; do \
		$(MAKE) -C $$dir PG_CONFIG=$(PG_CONFIG) install || exit 1; \
	done

.PHONY: install-kafka uninstall-kafka clean-kafka

pg_outbox--$(EXTVERSION).sql: $(FRAGMENTS) pg_outbox.control
	cat $(FRAGMENTS) > $@
endif
