#!/bin/sh
# Generate the stubs with the one grpcio-tools whose output loads on every protobuf we meet
# (1.62.3: no runtime version gate). Usage: scripts/gen_protos.sh [OUT], default OUT = proto.
set -eu
cd "$(dirname "$0")/.."
out=${1:-proto}
python=${PYTHON:-.venv/bin/python}
version=$("$python" -c 'from importlib.metadata import version; print(version("grpcio-tools"))')
if [ "$version" != 1.62.3 ]; then
    echo "gen_protos: grpcio-tools $version found, 1.62.3 is needed (make install)" >&2
    exit 1
fi
mkdir -p "$out"
"$python" -W ignore -m grpc_tools.protoc -Iproto --python_out="$out" --pyi_out="$out" \
    --grpc_python_out="$out" proto/moai_proto/v1/*.proto
