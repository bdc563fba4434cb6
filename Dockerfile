# The gateway alone: no sample servers, no embedded database, no build tools at run time.
FROM python:3.11-slim AS build
WORKDIR /src
COPY requirements/run.txt requirements/
RUN python -m venv /opt/mcp-gateway \
 && /opt/mcp-gateway/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY catalogue catalogue
COPY migrations migrations
RUN /opt/mcp-gateway/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --create-home --home-dir /var/lib/mcp-gateway mcp-gateway
COPY --from=build /opt/mcp-gateway /opt/mcp-gateway
ENV PATH=/opt/mcp-gateway/bin:$PATH
USER mcp-gateway
WORKDIR /var/lib/mcp-gateway
ENTRYPOINT ["mcp-gateway"]
CMD ["serve", "--host", "0.0.0.0"]
