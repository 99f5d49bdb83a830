# Completion of vpctl for fish; it asks vpctl itself, so that plug-ins of your own are known.
function __vpctl_values
    set -l option (string match --regex -- '^--[^=]*=' (commandline -ct)); or set option ''
    set -l values (env COLUMNS=999 _VPCTL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TYPER_COMPLETE_ARGS=(commandline -cp | string collect) vpctl | string match --regex '.+')
    if test (count $values) -gt 0
        printf '%s\n' $option$values
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command vpctl --no-files --keep-order --arguments "(__vpctl_values)"
