#compdef vpctl
# Completion of vpctl for zsh; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    local line value about
    local -a whole open
    for line in "${(@f)$(env COLUMNS=999 _TYPER_COMPLETE_ARGS="${words[1,CURRENT-1]} $PREFIX" \
            _TYPER_COMPLETE_FISH_ACTION=get-args _VPCTL_COMPLETE=complete_fish $words[1])}"; do
        value="${line%%$'\t'*}" about="${line#$value}"
        [[ -n $value ]] || continue
        value="${value//:/\\:}${about:+:${about#$'\t'}}"
        if [[ ${line%%$'\t'*} == *[:/] ]]; then open+=("$value"); else whole+=("$value"); fi
    done
    if (( $#whole + $#open == 0 )); then
        _files
        return
    fi
    [[ $PREFIX == --*=* ]] && compset -P '*='
    (( $#whole )) && _describe -V value whole
    (( $#open )) && _describe -V value open -S ''
}
if [ "$funcstack[1]" = "_vpctl" ]; then
    _vpctl_completion "$@"
else
    compdef _vpctl_completion vpctl
fi
