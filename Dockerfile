# One image for servers and agents: the program, R and Python.
FROM rust:1.95-bookworm AS build
WORKDIR /farrow
COPY . .
RUN cargo build --release --locked -p cli --bin farrow

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl python3 r-base-core \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home farrow && mkdir /data && chown farrow /data
COPY --from=build /farrow/target/release/farrow /usr/local/bin/farrow
USER farrow
WORKDIR /home/farrow
ENV FARROW_DATA=/data
EXPOSE 3277
ENTRYPOINT ["farrow"]
# Inside a container every address is its own: publish the port on loopback (-p 127.0.0.1:3277:3277), or
# give it a certificate (docs/tls.md).
CMD ["up", "--listen", "0.0.0.0:3277", "--behind-proxy"]
