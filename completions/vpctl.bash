# Completion of vpctl for bash; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" reply
    # Bash breaks words at : and =, and replaces $2, what is behind the last one. The values from vpctl are whole words.
    local before="${line%"$2"}"
    before="${before##*[[:space:]]}"
    [[ $before == --*=* ]] && before="${before#*=}"
    COMPREPLY=()
    while IFS=$'\t' read -r reply _; do
        reply="${reply#"$before"}"
        [[ $2$before != *[\"\']* && $reply == *[^[:alnum:]_./:,=+@%-]* ]] && printf -v reply %q "$reply"
        [[ $reply ]] && COMPREPLY+=("$reply")
    done < <(env COLUMNS=999 _TYPER_COMPLETE_ARGS="$line" _TYPER_COMPLETE_FISH_ACTION=get-args \
        _VPCTL_COMPLETE=complete_fish "$1")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:/] ]]; then
        compopt -o nospace
    fi
}
complete -o default -o bashdefault -o nosort -F _vpctl_completion vpctl
