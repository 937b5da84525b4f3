# Gateway, platform and demo in one image. Libraries are built in the first stage; only they and our code move on.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/build.txt requirements/demo.txt requirements/
RUN python -m venv /opt/tallystick \
 && /opt/tallystick/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/build.txt -r requirements/demo.txt
COPY . .
RUN /opt/tallystick/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/tallystick --create-home tallystick
COPY --from=build /opt/tallystick /opt/tallystick
ENV PATH=/opt/tallystick/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/tallystick
# Keys and journal live here and must outlast the container.
VOLUME /var/lib/tallystick
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s CMD ["tallystick", "-q", "status", "/etc/tallystick/gateway.toml"]
ENTRYPOINT ["tallystick"]
CMD ["run", "/etc/tallystick/gateway.toml"]
