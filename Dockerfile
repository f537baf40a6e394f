# syntax=docker/dockerfile:1
# The image of a worker, and of every other command: `docker run fraudstream topics`.
# Pin the base by digest for a release: --build-arg PYTHON_IMAGE=docker.io/library/python@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# The environment comes first, because it changes less often than the code. Wheels only, so no compiler is needed.
COPY requirements-prod.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/fraudstream \
 && pip --python /opt/fraudstream/bin/python install --only-binary=:all: --require-hashes -r requirements-prod.lock \
 && pip install --only-binary=:all: --require-hashes -r requirements-build.lock
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY app app
COPY agents agents
COPY tables tables
COPY models models
COPY cql cql
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/fraudstream/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="fraudstream" \
      org.opencontainers.image.description="Exact card-fraud features and scores on Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, because Kubernetes can only check `runAsNonRoot` against a number. /var/lib/fraudstream is the only folder
# that is written (worker state, trained models): mount a volume there and keep the rest read-only.
RUN groupadd --gid 10001 fraudstream \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fraudstream --shell /usr/sbin/nologin fraudstream \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/fraudstream
COPY --from=build /opt/fraudstream /opt/fraudstream
ENV PATH=/opt/fraudstream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FRAUDSTREAM_HOME=/var/lib/fraudstream
USER 10001:10001
WORKDIR /var/lib/fraudstream
VOLUME /var/lib/fraudstream
EXPOSE 6066
STOPSIGNAL SIGTERM
# /health/live answers as long as the event loop runs. Readiness is not checked here: a rebuild takes time, and an
# outage of Cassandra is no reason to replace a worker.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/health/live' % os.environ.get('FRAUDSTREAM_WEB_PORT', '6066'), timeout=4)"]
ENTRYPOINT ["fraudstream"]
CMD ["worker"]
