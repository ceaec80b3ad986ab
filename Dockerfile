# winnow in a container, for CPUs:
#   docker build -t winnow .
#   docker run --rm -v ~/models:/models:ro winnow inspect /models/model.gguf
#   docker run --rm -v ~/models:/models:ro -e WINNOW_API_KEY=secret -p 8080:8080 winnow serve -m /models/model.gguf --host 0.0.0.0
FROM debian:12 AS build
WORKDIR /src
COPY scripts/install_packages.sh scripts/
RUN scripts/install_packages.sh && apt-get install -y -q --no-install-recommends dpkg-dev file && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DWINNOW_TESTS=OFF -DWINNOW_BENCH=OFF -DWINNOW_CUDA=OFF \
 && cmake --build --preset release \
 && cd build/release && cpack

FROM debian:12-slim
COPY --from=build /src/build/release/*.deb /tmp/
RUN apt-get update -q && apt-get install -y -q --no-install-recommends /tmp/*.deb \
 && rm -rf /tmp/*.deb /var/lib/apt/lists/* \
 && useradd --create-home winnow
USER winnow
WORKDIR /home/winnow
EXPOSE 8080
ENTRYPOINT ["winnow"]
CMD ["--help"]
