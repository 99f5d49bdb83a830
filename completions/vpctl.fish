# Completion of vpctl for fish; it asks vpctl itself, so that plug-ins of your own are known.
function __vpctl_ask
    env _VPCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] _TYPER_COMPLETE_ARGS=(commandline -cp) vpctl
end
complete --command vpctl --arguments "(__vpctl_ask get-args)" --condition "__vpctl_ask is-args"
