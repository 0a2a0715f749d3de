# syntax=docker/dockerfile:1
# One build for both binaries; a small image for each: `--target api`, `--target worker`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The committed query data replaces a database. With the caches, the next build does not rebuild the dependencies.
ENV SQLX_OFFLINE=true
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p waybill-api -p waybill-worker \
    && install -D -t /out target/release/waybill-api target/release/waybill-worker

# glibc, CA certificates and an unprivileged user. The image has no curl: compose checks /readyz with bash.
FROM debian:bookworm-slim AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 --no-create-home --shell /usr/sbin/nologin waybill
USER 65532:65532
ENV WAYBILL_LOG_FORMAT=json

FROM runtime AS worker
COPY --from=build /out/waybill-worker /usr/local/bin/waybill-worker
ENV WAYBILL_METRICS_LISTEN=0.0.0.0:9464
EXPOSE 9464
ENTRYPOINT ["/usr/local/bin/waybill-worker"]

FROM runtime AS api
COPY --from=build /out/waybill-api /usr/local/bin/waybill-api
ENV WAYBILL_LISTEN=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/waybill-api"]
CMD ["serve"]
