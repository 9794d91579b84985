# SPDX-License-Identifier: Apache-2.0
#
# The server for a CPU, with the demo model. BASE is a Debian 12.
#   docker build -t weir .        or, without a container engine, tools/image.sh
ARG BASE=debian:12-slim

FROM ${BASE} AS builder
# Certificates and settings of pip, for a builder behind a proxy.
ARG PIP_CERT
ARG PIP_INDEX_URL
WORKDIR /src
COPY tools/setup.sh tools/versions.env tools/
RUN tools/setup.sh build
COPY . .
# The commit, and how many files are compiled at once: each takes up to 1.5 GB.
ARG REVISION=
ARG BUILD_JOBS=2
RUN cmake --preset cpu -D WEIR_TESTS=OFF -D WEIR_BENCH=OFF -D WEIR_REVISION="$REVISION" \
  && ninja -C build -j "$BUILD_JOBS" bin/weir-server bin/weir \
  && strip build/bin/weir-server build/bin/weir

FROM ${BASE}
# What the two programs link, from Debian; Torch's five libraries lie beside.
RUN apt-get update -qq \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    libgrpc++1.51 libprotobuf32 libabsl20220623 libprometheus-cpp-core1.0 \
    libprometheus-cpp-pull1.0 libcivetweb1 libspdlog1.10 libfmt9 libssl3 zlib1g \
    libpcre2-8-0 \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
  && groupadd --gid 10001 weir \
  && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
    --shell /usr/sbin/nologin weir
COPY --from=builder /src/.deps/torch/lib/ /usr/local/lib/weir/
COPY --from=builder /src/.deps/torch/licenses/ /usr/share/doc/weir/torch/
COPY --from=builder /src/build/bin/weir-server /src/build/bin/weir /usr/local/bin/
COPY LICENSE NOTICE /usr/share/doc/weir/
COPY models/demo/ /models/demo/
RUN echo /usr/local/lib/weir >/etc/ld.so.conf.d/weir.conf && ldconfig

USER 10001:10001
WORKDIR /
EXPOSE 7070 9470
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/weir-server"]
# A container's port is reached from other machines or not at all; TLS is the
# proxy's in front (SECURITY.md).
CMD ["--model", "demo=/models/demo", "--listen", "0.0.0.0:7070", \
  "--metrics-listen", "0.0.0.0:9470", "--allow-plaintext"]
