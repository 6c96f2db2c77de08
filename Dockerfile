# The gateway alone. Inference servers run from their vendors' images; no torch is in this one.
#   docker build -t switchgear .
#   docker run -p 8080:8080 -v ./gateway.toml:/etc/switchgear/switchgear.toml:ro -v switchgear:/var/lib/switchgear switchgear
# In the file, state_dir and a SQLite database belong under /var/lib/switchgear.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY deploy/locks/gateway.txt deploy/locks/build.txt deploy/locks/
# Two environments: what the gateway needs, which goes on, and what builds its wheel, which stays here.
RUN python -m venv --without-pip /opt/switchgear \
    && python -m pip --python /opt/switchgear/bin/python install --no-cache-dir --no-deps --require-hashes \
        -r deploy/locks/gateway.txt \
    && python -m venv --without-pip /opt/build \
    && python -m pip --python /opt/build/bin/python install --no-cache-dir --no-deps --require-hashes \
        -r deploy/locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY routing routing
COPY backends backends
COPY semantic_cache semantic_cache
COPY dashboards dashboards
RUN dashboards/console/build.sh /opt/build/bin/python
RUN python -m pip --python /opt/build/bin/python wheel --no-cache-dir --no-deps --no-build-isolation --no-index \
        --wheel-dir /opt/wheel . \
    && python -m pip --python /opt/switchgear/bin/python install --no-cache-dir --no-deps --no-index /opt/wheel/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/switchgear switchgear
COPY --from=build /opt/switchgear /opt/switchgear
ENV PATH=/opt/switchgear/bin:$PATH
WORKDIR /var/lib/switchgear
USER 10001
VOLUME /var/lib/switchgear
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["switchgear"]
CMD ["serve", "--config", "/etc/switchgear/switchgear.toml", "--host", "0.0.0.0", "--port", "8080"]
