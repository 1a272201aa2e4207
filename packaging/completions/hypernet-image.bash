# SPDX-License-Identifier: Apache-2.0
# bash completion for hypernet-image(1)

_hypernet_image() {
    # shellcheck disable=SC2034 # split is set by _init_completion
    local cur prev words cword split
    _init_completion -s || return

    local verb='' word
    for word in "${words[@]:1:cword-1}"; do
        case $word in
            build | info | verify | lint | delta | install) [[ $verb ]] || verb=$word ;;
        esac
    done

    case $prev in
        --output | --gnupg-home | --cache | --overlay | --keys)
            _filedir -d
            return
            ;;
        --agents)
            _filedir deb
            return
            ;;
        --channel)
            mapfile -t COMPREPLY < <(compgen -W "stable beta dev" -- "$cur")
            return
            ;;
        --version | --package | --kernel-arg | --compression-level | --size | --serial | --expires | \
            --min-version | --min-from-version | --issued)
            return
            ;;
    esac

    local -a options=(--help)
    case $verb in
        build)
            options+=(--version --output --agents --gnupg-home --cache --overlay --package --kernel-arg)
            options+=(--compression-level --channel --serial --expires --min-version --min-from-version --issued)
            ;;
        info | lint) options+=(--json) ;;
        verify) options+=(--keys --json) ;;
        delta) options+=(--output) ;;
        install) options+=(--size --wipe) ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${options[*]}" -- "$cur")
    elif [[ ! $verb ]]; then
        mapfile -t COMPREPLY < <(compgen -W "build info verify lint delta install" -- "$cur")
    elif [[ $verb == build ]]; then
        _filedir yaml
    elif [[ $verb == info || $verb == verify ]]; then
        _filedir '@(img|img.zst)'
    elif [[ $verb == lint || $verb == delta ]]; then
        _filedir img
    else
        # The disk may be a device or a file.
        _filedir
    fi
}

complete -F _hypernet_image hypernet-image
