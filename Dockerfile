# syntax=docker/dockerfile:1
# Two stages: packages are installed by hash in the first; the second carries no compiler, no pip cache, no sources.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/recorder
COPY requirements/build.txt requirements/base.txt requirements/
RUN /opt/recorder/bin/pip install --require-hashes --no-deps -r requirements/build.txt \
 && /opt/recorder/bin/pip install --require-hashes --no-deps --no-build-isolation -r requirements/base.txt
COPY pyproject.toml README.md ./
COPY recorder recorder
COPY storage storage
COPY retention retention
RUN /opt/recorder/bin/pip install --no-deps --no-build-isolation --no-index . \
 && /opt/recorder/bin/pip uninstall --yes setuptools pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/recorder recorder \
 && install -d -o recorder -g recorder -m 0700 /var/lib/recorder/data /var/lib/recorder/keys
COPY --from=build /opt/recorder /opt/recorder
ENV PATH=/opt/recorder/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RECORDER_LISTEN=0.0.0.0:8080 \
    RECORDER_DATA_DIR=/var/lib/recorder/data \
    RECORDER_KEYRING=/var/lib/recorder/keys/keyring.json
USER recorder
WORKDIR /var/lib/recorder
# data: spool (and the embedded database, where one is used). keys: the keyring, never in the same backup as either.
VOLUME ["/var/lib/recorder/data", "/var/lib/recorder/keys"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["recorder"]
CMD ["serve"]
