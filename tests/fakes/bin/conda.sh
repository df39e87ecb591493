# What `conda shell.bash hook` does to a shell, as far as activation goes.
export CONDA_EXE=@BASE@/bin/conda
export CONDA_PYTHON_EXE=@BASE@/bin/python
export CONDA_SHLVL="${CONDA_SHLVL:-0}"
PATH=@BASE@/condabin:"$PATH"
conda() {
    case "$1" in
    activate)
        __moai_prefix=@BASE@
        case "$2" in ""|base) ;; */*) __moai_prefix="$2";; *) __moai_prefix=@BASE@/envs/"$2";; esac
        if [ ! -d "$__moai_prefix" ]; then
            echo "EnvironmentNameNotFound: Could not find conda environment: $2" >&2
            return 1
        fi
        [ "$CONDA_SHLVL" = 0 ] || conda deactivate
        export CONDA_PREFIX="$__moai_prefix" CONDA_DEFAULT_ENV="${2:-base}" CONDA_SHLVL=1
        export CONDA_PROMPT_MODIFIER="(${2:-base}) "
        export PATH="$CONDA_PREFIX/bin:$PATH"
        for __moai_script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
            [ -f "$__moai_script" ] && . "$__moai_script"
        done
        unset __moai_script __moai_prefix
        ;;
    deactivate)
        PATH="$(printf %s ":$PATH:" | sed "s|:$CONDA_PREFIX/bin:|:|; s|^:||; s|:\$||")"
        unset CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_PROMPT_MODIFIER
        export CONDA_SHLVL=0
        ;;
    *) "$CONDA_EXE" "$@";;
    esac
}
