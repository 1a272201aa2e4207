# SPDX-License-Identifier: Apache-2.0
# bash completion for hypernet-admin(1)

_hypernet_admin() {
    local cur prev words cword
    _init_completion -n = || return

    # What stands before the word to be completed: the verb, and how many words follow it that are no options.
    local verb='' arguments=0 last='' index word
    for ((index = 1; index < cword; index++)); do
        word=${words[index]}
        case ${words[index - 1]} in
            --image | --reason | --slot | --keys | --run) continue ;;
        esac
        case $word in
            -*) ;;
            *)
                if [[ $verb ]]; then
                    arguments=$((arguments + 1)) last=$word
                else
                    verb=$word
                fi
                ;;
        esac
    done

    case $prev in
        --image)
            _filedir '@(img|zst)'
            return
            ;;
        --keys)
            _filedir -d
            return
            ;;
        --slot)
            mapfile -t COMPREPLY < <(compgen -W 'a b' -- "$cur")
            return
            ;;
        --run)
            # The lines of the table of checks; the first column is the name.
            mapfile -t COMPREPLY < <(compgen -W "$(hypernet-admin health 2>/dev/null |
                awk '$2 == "required" || $2 == "wanted" { print $1 }')" -- "$cur")
            return
            ;;
        --reason)
            return
            ;;
    esac

    local -a options=(--json --json=pretty --json=short --json=off --help) candidates=()
    case $verb in
        '')
            options+=(--version)
            candidates=(status slots log health update approve arm disarm rollback mark denied verify info)
            ;;
        status) options+=(--check) ;;
        health) options+=(--watch --run) ;;
        update) options+=(--image --dry-run --allow-downgrade --stage-only --reboot --slot) ;;
        arm) options+=(--reboot) ;;
        rollback) options+=(--reason --reboot) ;;
        mark)
            options+=(--reason)
            case $arguments in
                0) candidates=(good bad) ;;
                1) candidates=(a b booted other) ;;
            esac
            ;;
        denied)
            if ((arguments == 0)); then
                candidates=(clear)
            elif [[ $last == clear ]]; then
                options+=(--all)
                # The second column of the list is a date or "-": the first one alone is offered.
                mapfile -t candidates < <(hypernet-admin denied 2>/dev/null | awk 'NR > 1 { print $1 }')
            fi
            ;;
        verify) options+=(--keys) ;;
    esac

    # Options are offered only when asked for.
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${options[*]}" -- "$cur")
    elif [[ $verb == verify || $verb == info ]]; then
        _filedir img
    else
        mapfile -t COMPREPLY < <(compgen -W "${candidates[*]}" -- "$cur")
    fi
}

complete -F _hypernet_admin hypernet-admin
