#compdef @NAME@
# Completion of @NAME@ for zsh: source it after compinit, or put it as _@NAME@ into a directory of $fpath
_@FUNCTION@() {
    local program=${(Q)words[1]} line files=
    local -a found reply bare
    program=${program/#\~/$HOME}
    reply=("${(@f)$(command "$program" __complete zsh "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    # What stands before the value of an option, and of a list, is there already.
    [[ $PREFIX == --*=* ]] && compset -P '*='
    for line in $reply; do
        case $line in
            :files) files=_files ;;
            :directories) files='_files -/' ;;
            *) found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    # Behind an app whose variable is meant there is more to come.
    [[ -z ${found:#*.:*} ]] && bare=(-S '')
    (( $#found )) && _describe -V '@NAME@' found "${bare[@]}"
    [[ -n $files ]] && ${=files}
    return 0
}
if [[ $funcstack[1] == _@NAME@ ]]; then
    _@FUNCTION@ "$@"
else
    compdef _@FUNCTION@ @NAME@
fi
