#compdef vpctl
# Completion of vpctl for zsh; it asks vpctl itself, so that plug-ins of your own are known.
_vpctl_completion() {
    eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _VPCTL_COMPLETE=complete_zsh vpctl)
    _files
}
if [ "$funcstack[1]" = "_vpctl" ]; then
    _vpctl_completion "$@"
else
    compdef _vpctl_completion vpctl
fi
