# Completion of @NAME@ for bash: source it, or put it into ~/.local/share/bash-completion/completions/@NAME@
_@FUNCTION@_complete() {
    local line=${COMP_LINE:0:COMP_POINT} program=${1/#\~/$HOME}
    mapfile -t COMPREPLY < <(command "$program" __complete bash "$COMP_WORDBREAKS" "$line" 2>/dev/null)
    # Inside a directory, and behind an app whose variable is meant, there is more to come.
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[/.] ]] && compopt -o nospace
    return 0
}
complete -F _@FUNCTION@_complete @NAME@
