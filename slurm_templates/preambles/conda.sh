# Libraries of the conda environment that was active at submission (its python is used anyway).
if [ -n "${CONDA_PREFIX:-}" ]; then
  export PATH="$CONDA_PREFIX/bin:$PATH"
  export LD_LIBRARY_PATH="$CONDA_PREFIX/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
