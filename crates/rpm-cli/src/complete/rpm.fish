# Completion of @NAME@ for fish: source it, or put it into ~/.config/fish/completions/@NAME@.fish
function __@FUNCTION@_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -e words[1]
    for line in (command $program __complete fish $words "$current" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path "$current"
            case :directories
                __fish_complete_directories "$current"
            case '*'
                printf '%s\n' $line
        end
    end
end
complete -c @NAME@ -f -k -a '(__@FUNCTION@_complete)'
