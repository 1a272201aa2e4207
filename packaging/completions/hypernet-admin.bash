# SPDX-License-Identifier: Apache-2.0
# bash completion for hypernet-admin(1)

_hypernet_admin() {
    local cur prev words cword
    _init_completion -n = || return

    local verb='' mark='' slot='' word
    for word in "${words[@]:1:cword-1}"; do
        case $word in
            -*) ;;
            status | update | rollback | mark | health) [[ $verb ]] || verb=$word ;;
            good | bad) [[ $verb == mark && ! $mark ]] && mark=$word ;;
            a | b | booted | other) [[ $mark && ! $slot ]] && slot=$word ;;
        esac
    done

    case $prev in
        --image)
            _filedir img
            return
            ;;
        --reason)
            return
            ;;
    esac

    local -a candidates=(--json --json=pretty --json=short --json=off --help)
    case $verb in
        '') candidates+=(--version status update rollback mark health) ;;
        update) candidates+=(--image) ;;
        rollback) candidates+=(--reason --reboot) ;;
        mark)
            candidates+=(--reason)
            if [[ ! $mark ]]; then
                candidates+=(good bad)
            elif [[ ! $slot ]]; then
                candidates+=(a b booted other)
            fi
            ;;
    esac
    # Options are offered only when asked for.
    [[ $cur == -* ]] || candidates=("${candidates[@]//--*/}")
    mapfile -t COMPREPLY < <(compgen -W "${candidates[*]}" -- "$cur")
}

complete -F _hypernet_admin hypernet-admin
