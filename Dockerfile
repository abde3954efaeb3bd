# sandboxd in a container.
#
#   docker build -t sandboxd .
#   docker run --rm -p 127.0.0.1:7402:7402 -v sandboxd:/var/lib/sandboxd \
#       --security-opt seccomp=contrib/seccomp.json --security-opt systempaths=unconfined \
#       sandboxd
#   docker exec <container> sandboxctl doctor        # says what is missing, and its remedy
#
# A sandbox inside a container needs what container runtimes block by default: new namespaces and mounts (the
# first option) and a /proc of its own (the second; podman: 'unmask=/proc/*'). It needs neither added
# capabilities nor --privileged. For limits by cgroup instead of setrlimit, also delegate a writable cgroup.
# More in docs/host-setup.md; tests/container/run tries all of it.
#
# Every image can be replaced, for instance by one that is made locally:
#   docker build --build-arg BASE=localhost/debian:base …
# and so can the stages "build" and "node", by folders with the same files:
#   docker build --build-context build=FOLDER --build-context node=FOLDER …

ARG BASE=debian:bookworm
ARG RUST_IMAGE=rust:1.95-bookworm
ARG NODE_IMAGE=node:22-bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p sandboxd -p sandbox-keeper -p sandbox-launch -p sandboxctl

# Debian's own Node.js is too old for current front-end tools.
FROM ${NODE_IMAGE} AS node

FROM ${BASE}
# What commands in the sandbox use: the view shows them this image's /usr.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        build-essential ca-certificates curl git libatomic1 procps python3 tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /usr/sbin/nologin sandbox \
    && install --directory --owner=sandbox --group=sandbox --mode=0700 /var/lib/sandboxd
COPY --from=node /usr/local/bin/node /usr/local/bin/
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
    && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
COPY --from=build \
    /src/target/release/sandboxd /src/target/release/sandbox-keeper \
    /src/target/release/sandbox-launch /src/target/release/sandboxctl \
    /usr/local/bin/

USER sandbox
VOLUME /var/lib/sandboxd
EXPOSE 7402
# A token is asked for on every listener; the first one is in /var/lib/sandboxd/token.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:7402/readyz"]
STOPSIGNAL SIGTERM
CMD ["sandboxd", "serve", "--listen", "0.0.0.0:7402", "--state", "/var/lib/sandboxd"]
