# Targets that need no pg_config and are not PGXS's: included instead of PGXS
# when one of them is asked for.  Other targets named beside them get a make of
# their own.

.PHONY: $(TASKS)

setup:
	@scripts/setup.sh build

check:
	+@scripts/check.sh

torture:
	+@test/torture/run.sh

check-memory:
	+@scripts/check-memory.sh

check-versions:
	+@scripts/check-versions.sh

fuzz:
	+@scripts/fuzz.sh

demo:
	+@scripts/demo.sh

lint:
	+@scripts/lint.sh

indent:
	+@scripts/indent.sh

bench:
	+@bench/run.sh

# The archive that PGXN takes: what is committed, less what .gitattributes says.
dist:
	git archive --format=zip --prefix=$(EXTENSION)-$(EXTVERSION)/ \
		-o $(EXTENSION)-$(EXTVERSION).zip HEAD

OTHER_GOALS := $(filter-out $(TASKS),$(MAKECMDGOALS))
.PHONY: $(OTHER_GOALS)
$(OTHER_GOALS):
	+@$(MAKE) $@
