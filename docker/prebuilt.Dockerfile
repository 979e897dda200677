# The image of docker/Dockerfile with a binary that was built outside, by docker/build.sh: nothing is
# pulled. A file of its own, because the classic builder runs every stage of a file, needed or not.
#
#   docker/build.sh
#   docker build -f docker/prebuilt.Dockerfile -t ringway .

# Whatever runs: the binary needs nothing of it. `scratch` is an empty image.
ARG BASE_IMAGE=scratch

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ringway" \
      org.opencontainers.image.description="An io_uring HTTP proxy, reverse and forward" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Read as ./config.toml, by the proxy and by the health check alike.
COPY docker/image/config.toml /etc/ringway/config.toml
WORKDIR /etc/ringway
# A number, because there is no /etc/passwd and because Kubernetes asks for one.
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/ringway", "health"]
ENTRYPOINT ["/usr/local/bin/ringway"]
ARG BINARY=target/container/ringway
COPY ${BINARY} /usr/local/bin/ringway
