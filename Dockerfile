# A static binary alone in its image; test/emptyroot proves these steps without a container engine.
# Data, configuration and keys live in the volume /data:
#   docker run --rm -v ebb:/data IMAGE init --server-name example.org --data-dir /data --listen 0.0.0.0:8008
#   docker run -v ebb:/data -p 8008:8008 IMAGE
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION" && mkdir -p /root-of-image/data /root-of-image/tmp /root-of-image/etc/ssl/certs \
	&& cp bin/ebb /root-of-image/ebb \
	&& cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ \
	&& chown -R 65532:65532 /root-of-image/data && chmod 1777 /root-of-image/tmp

FROM scratch
COPY --from=build /root-of-image/ /
USER 65532:65532
VOLUME /data
EXPOSE 8008
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/ebb", "healthcheck", "--config", "/data/ebb.yaml"]
ENTRYPOINT ["/ebb"]
CMD ["serve", "--config", "/data/ebb.yaml"]
