# Read by bash before a block of a page (BASH_ENV). $SNIPPETS is a folder for notes:
#   line      the line of the block that failed
#   commands  what was not run, to be parsed: line, number of words, words
#   services  the processes of services; port8000 holds the port that stands for 8000
unset BASH_ENV
set -eEo pipefail
trap 'line_of_block "$LINENO" "${BASH_LINENO[@]}" > "$SNIPPETS/line"' ERR

line_of_block() { # of the outermost function, if there is one; the last number is 0
    if [ $# -gt 2 ]; then shift $(($# - 2)); fi
    echo "$1"
}

parse_only() { # called by a function that has the name of a command
    printf '%s\0' "${BASH_LINENO[1]}" "$#" "$@" >> "$SNIPPETS/commands"
}

pip() { parse_only pip "$@"; }       # the environment of the tests has all packages
pytest() { parse_only pytest "$@"; } # these three are the checks of the project
ruff() { parse_only ruff "$@"; }
mypy() { parse_only mypy "$@"; }

if [ "$SNIPPETS_MODE" = parse ]; then
    PATH=nowhere
    captioner() { parse_only captioner "$@"; }
    python() { parse_only python "$@"; }
    python3() { parse_only python "$@"; }
    torchrun() { parse_only torchrun "$@"; }
    command_not_found_handle() { :; }
    .() { :; }
    cd() { :; }
    return 0
fi

python() {
    case "$1" in
        scripts/download_*) parse_only python "$@" ;; # the folder has this data
        *) command python "$@" ;;
    esac
}

torchrun() { # with two processes
    local word previous="" words=()
    for word in "$@"; do
        [ "$previous" != --nproc-per-node ] || word=2
        words+=("$word")
        previous=$word
    done
    command torchrun "${words[@]}"
}

captioner() {
    case " $* " in
        " serve "*) serve "$@" ;;
        *" --xmp "*) if type -P exiftool > /dev/null; then command captioner "$@"; else parse_only captioner "$@"; fi ;;
        *" --ray"*) if command python -c 'import ray'; then command captioner "$@"; else parse_only captioner "$@"; fi ;;
        *) command captioner "$@" ;;
    esac
}

serve() { # in the background, on any port that is free
    local word previous="" port=8000 free service
    for word in "$@"; do
        [ "$previous" != --port ] || port=$word
        previous=$word
    done
    free=$(command python -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    command captioner "$@" --port "$free" < /dev/null > "$SNIPPETS/service.log" 2>&1 &
    service=$!
    echo "$service" >> "$SNIPPETS/services"
    [ -f "$SNIPPETS/port$port" ] || echo "$free" > "$SNIPPETS/port$port" # others are further examples
    until command curl --silent --fail --output /dev/null "127.0.0.1:$free/ready"; do
        kill -0 "$service" || { cat "$SNIPPETS/service.log"; return 1; }
        sleep 0.2
    done
}

curl() { # asks the service of the page; 422 is an answer that a page may show
    local word words=() status port
    for word in "$@"; do
        if [[ $word =~ localhost:([0-9]+) ]] && [ -f "$SNIPPETS/port${BASH_REMATCH[1]}" ]; then
            port=$(< "$SNIPPETS/port${BASH_REMATCH[1]}")
            word=${word/localhost:${BASH_REMATCH[1]}/127.0.0.1:$port}
        fi
        words+=("$word")
    done
    status=$(command curl --silent --output "$SNIPPETS/answer" --write-out '%{http_code}' "${words[@]}")
    cat "$SNIPPETS/answer"
    [[ $status = 2* || $status = 422 ]]
}
