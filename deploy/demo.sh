#!/usr/bin/env bash
# One proxy, two origins: publishes and plays through the proxy with ffmpeg, kills an origin, and
# does it again. Ends with an error if anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
source deploy/packages.sh

install_packages gcc libc6-dev nginx libnginx-mod-rtmp ffmpeg curl jq bsdextrautils
PATH=$PATH:/usr/sbin

work=$(mktemp -d)
declare -A pids=()       # name -> process id
declare -A rtmp_ports=() # origin -> port
declare -A ids=()        # origin -> id, as the proxy knows it
proxy_rtmp=
proxy_api=

cleanup() {
    local status=$? name
    # The shell would tell of each that it was killed.
    {
        for name in "${!pids[@]}"; do kill -9 "${pids[$name]}" || true; done
        wait || true
    } 2>/dev/null
    if ((status)); then tail -n 20 "$work"/*.log >&2 || true; fi
    rm -rf "$work"
    if ((status)); then printf '\nThe demo FAILED.\n' >&2; fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

fail() {
    echo "error: $*" >&2
    exit 1
}

# wait_for LIMIT_IN_SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local limit=$1 what=$2 deadline=$((SECONDS + $1))
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || fail "$what: not within $limit s"
        sleep 0.1
    done
}

# start NAME COMMAND...: in the background, with its output in a log file.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 </dev/null &
    pids[$name]=$!
}

# stop NAME: as a crash does.
stop() {
    local pid=${pids[$1]}
    unset "pids[$1]"
    { kill -9 "$pid" && wait "$pid"; } 2>/dev/null || true
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

is_alive() { kill -0 "${pids[$1]}" 2>/dev/null; }

is_gone() { ! is_alive "$1"; }

listens_or_died() { listens "$2" || is_gone "$1"; }

# The port is below the range from which the system takes ports for outgoing connections.
free_port() {
    local port
    while port=$((12000 + RANDOM % 20000)) && listens "$port"; do :; done
    echo "$port"
}

# start_origin NAME: nginx with its RTMP module.
start_origin() {
    local name=$1 port try
    for try in 1 2 3 4 5; do
        port=$(free_port)
        mkdir -p "$work/$name"
        cat >"$work/$name/nginx.conf" <<EOF
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {}
rtmp { access_log off; server { listen 127.0.0.1:$port; application live { live on; } } }
EOF
        start "$name" nginx -e stderr -p "$work/$name" -c nginx.conf
        wait_for 10 "$name listens" listens_or_died "$name" "$port"
        if is_alive "$name"; then
            rtmp_ports[$name]=$port
            return
        fi
        echo "$name: port $port was taken, attempt $try"
    done
    fail "$name found no free port"
}

# register NAME: sends the heartbeat that SRS sends by itself.
register() {
    local name=$1 pid=${pids[$1]}
    ids[$name]="$name-run1-$pid"
    curl --fail --silent --show-error --max-time 5 --output /dev/null --header 'Content-Type: application/json' \
        --data "{\"device_id\":\"$name\",\"ip\":\"127.0.0.1\",\"server\":\"$name\",\"service\":\"run1\",
                 \"pid\":\"$pid\",\"rtmp\":[\"${rtmp_ports[$name]}\"]}" \
        "http://$proxy_api/api/v1/srs/register"
}

proxy_listens() {
    is_alive proxy || fail "the proxy ended"
    local line
    line=$(grep --max-count=1 'listening' "$work/proxy.log") || return
    proxy_rtmp=$(sed -n 's/.* rtmp="\{0,1\}\([0-9.:]*\).*/\1/p' <<<"$line")
    proxy_api=$(sed -n 's/.* system_api="\{0,1\}\([0-9.:]*\).*/\1/p' <<<"$line")
    [[ $proxy_rtmp && $proxy_api ]]
}

# api PATH: asks the proxy.
api() { curl --fail --silent --show-error --max-time 5 "http://$proxy_api/api/v1/proxy/$1"; }

# origin_of STREAM: the name of the origin on which somebody publishes it, if any.
origin_of() {
    local id name
    id=$(api streams | jq -r --arg s "__defaultVhost__/live/$1" \
        '.streams[] | select(.stream == $s and .publishers > 0) | .origin')
    for name in "${!ids[@]}"; do
        if [[ ${ids[$name]} == "$id" ]]; then echo "$name"; fi
    done
}

is_published() { [[ $(origin_of "$1") ]]; }

# publish STREAM TONE: a test picture and a tone, encoded and sent by ffmpeg.
publish() {
    start "publisher-$1" ffmpeg -hide_banner -loglevel warning -re -f lavfi -i testsrc2=size=640x360:rate=25 \
        -f lavfi -i "sine=frequency=$2" -c:v libx264 -preset ultrafast -tune zerolatency -threads 1 -g 25 \
        -pix_fmt yuv420p -c:a aac -f flv "rtmp://$proxy_rtmp/live/$1"
    wait_for 10 "$1 is published" is_published "$1"
    echo "rtmp://$proxy_rtmp/live/$1 is published, and placed on $(origin_of "$1")"
}

# play STREAM: three seconds of it, decoded by ffprobe.
play() {
    local url=rtmp://$proxy_rtmp/live/$1 seen video audio
    seen=$(timeout 20 ffprobe -v error -read_intervals '%+3' -count_frames \
        -show_entries stream=codec_name,width,height,nb_read_frames -of json "$url") || fail "$url does not play"
    jq -r --arg url "$url" '"\($url) played: " + ([.streams[] | .codec_name
        + (if .width then " \(.width)x\(.height)" else "" end) + ", \(.nb_read_frames) frames"] | join("; "))' <<<"$seen"
    video=$(jq '[.streams[] | select(.codec_name == "h264") | .nb_read_frames | tonumber] | add // 0' <<<"$seen")
    audio=$(jq '[.streams[] | select(.codec_name == "aac") | .nb_read_frames | tonumber] | add // 0' <<<"$seen")
    ((video >= 40 && audio >= 80)) || fail "$url: $video frames of video and $audio of audio are too few"
}

show() {
    say "$1"
    api origins | jq -r '"ORIGIN STATE STREAMS", (.origins[] | "\(.id) \(.state) \(.streams)")' | column -t
    echo
    api streams | jq -r '"STREAM ORIGIN PUBLISHERS PLAYERS",
        (.streams[] | "\(.stream) \(.origin) \(.publishers) \(.players)")' | column -t
}

say "Building the proxy"
cargo build --release --locked

say "Starting two origins and the proxy"
start_origin origin-a
start_origin origin-b
start proxy env --chdir="$work" PROXY_RTMP_SERVER=127.0.0.1:0 PROXY_SYSTEM_API=127.0.0.1:0 \
    PROXY_LOAD_BALANCER_TYPE=memory "$PWD/target/release/srs-proxy"
wait_for 10 "the proxy listens" proxy_listens
register origin-a
register origin-b
echo "clients connect to rtmp://$proxy_rtmp; origins register at http://$proxy_api/api/v1/srs/register"
[[ $(api origins | jq '.origins | length') == 2 ]] || fail "two origins should be registered"

say "Publishing two streams through the proxy"
publish movie 440
publish concert 660
lost=$(origin_of movie)
left=$(origin_of concert)
[[ $lost != "$left" ]] || fail "both streams are on $lost"

say "Playing both back through the proxy"
play movie
play concert
show "What the proxy knows"

say "Killing $lost, which holds the movie, and publishing the movie again"
stop "$lost"
# The encoder notices that its connection is gone, as OBS does; OBS would come back by itself.
wait_for 5 "the encoder is disconnected" is_gone publisher-movie
publish movie 440
[[ $(origin_of movie) == "$left" ]] || fail "the movie is not on $left"

say "Playing both again"
play movie
play concert
is_alive publisher-concert || fail "the concert was interrupted"
show "What the proxy knows now"

say "Everything was as it should be."
