# Completion of vpctl for bash; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    local IFS=$'\n'
    COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _VPCTL_COMPLETE=complete_bash "$1"))
}
complete -o default -o bashdefault -F _vpctl_completion vpctl
