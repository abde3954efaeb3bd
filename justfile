# Recipes for people who change this repository. `just` lists them; each is one line to copy where just is missing.

# List the recipes.
default:
    @just --list

# Everything that needs no build server: format, lints, tests, doc tests, dependencies, spelling, policies.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test --locked
    cargo deny --locked check bans licenses sources
    typos
    cargo run --locked --bin sandboxctl -- policy check

# All tests; a kernel feature that is missing is named, and its tests count as skipped.
test *ARGS:
    cargo test --locked {{ARGS}}

# The same, but nothing may be skipped.
test-all *ARGS:
    SANDBOX_REQUIRE=all cargo test --locked {{ARGS}}

# Ours, bare tokio::process and bwrap in one run; `just bench --short` takes about a minute.
bench *ARGS:
    cargo bench --locked -p sandbox-tests --bench speed -- {{ARGS}}

# What the build server runs; as root, installs packages.
ci:
    .ci/run

# Writes policies/schema.json anew; a test fails when it is stale.
schema:
    cargo run --locked -p sandbox-policy --example schema > policies/schema.json
