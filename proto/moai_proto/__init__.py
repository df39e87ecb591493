"""The contract between laptop and agent: generated code only (see scripts/gen_protos.sh)."""
