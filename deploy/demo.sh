#!/usr/bin/env bash
# A mesh of three proxies, two origins that register through different ones: publishes through one
# proxy and plays through another at once with ffmpeg, by RTMP and as HLS, kills a proxy and then an
# origin, and does it again each time. Ends with an error if anything is not as it should be.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=deploy/packages.sh
source deploy/packages.sh

install_packages gcc libc6-dev nginx libnginx-mod-rtmp ffmpeg curl jq bsdextrautils
PATH=$PATH:/usr/sbin

work=$(mktemp -d)
declare -A pids=()       # name -> process id
declare -A rtmp_ports=() http_ports=() # origin -> port
declare -A ids=()        # origin -> id, as the nodes know it
declare -A gossip_ports=() grpc_ports=() # node -> port
declare -A rtmp=() http=() # proxy -> where clients connect to
declare -A api=()        # proxy -> its system API

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

# start_origin NAME: nginx with its RTMP module, which also writes HLS, which nginx serves.
start_origin() {
    local name=$1 port http_port try
    for try in 1 2 3 4 5; do
        port=$(free_port)
        http_port=$(free_port)
        mkdir -p "$work/$name/www/live"
        cat >"$work/$name/nginx.conf" <<EOF
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {}
rtmp {
  access_log off;
  server {
    listen 127.0.0.1:$port;
    application live { live on; hls on; hls_path $work/$name/www/live; hls_fragment 1s; hls_playlist_length 10s; }
  }
}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; }
  server { listen 127.0.0.1:$http_port; root $work/$name/www; }
}
EOF
        start "$name" nginx -e stderr -p "$work/$name" -c nginx.conf
        wait_for 10 "$name listens" listens_or_died "$name" "$port"
        if is_alive "$name"; then
            rtmp_ports[$name]=$port
            http_ports[$name]=$http_port
            return
        fi
        echo "$name: port $port or $http_port was taken, attempt $try"
    done
    fail "$name found no free port"
}

# start_node NAME SEEDS: a proxy. Where it gossips is in gossip_ports, where it answers the others in
# grpc_ports.
start_node() {
    start "$1" env --chdir="$work" PROXY_RTMP_SERVER=127.0.0.1:0 PROXY_HTTP_SERVER=127.0.0.1:0 \
        PROXY_HTTP_API=127.0.0.1:0 PROXY_SYSTEM_API=127.0.0.1:0 \
        PROXY_WEBRTC_SERVER=127.0.0.1:0 PROXY_SRT_SERVER=127.0.0.1:0 \
        PROXY_LOAD_BALANCER_TYPE=mesh PROXY_MESH_NODE_ID="$1" PROXY_MESH_SEEDS="$2" PROXY_MESH_KEY="$key" \
        PROXY_MESH_GOSSIP_LISTEN="127.0.0.1:${gossip_ports[$1]}" \
        PROXY_MESH_GRPC_LISTEN="127.0.0.1:${grpc_ports[$1]}" "$proxy"
}

node_is_ready() {
    is_alive "$1" || fail "$1 ended"
    local line
    line=$(grep --max-count=1 'listening' "$work/$1.log") || return
    rtmp[$1]=$(sed -n 's/.* rtmp="\{0,1\}\([0-9.:]*\).*/\1/p' <<<"$line")
    http[$1]=$(sed -n 's/.* http="\{0,1\}\([0-9.:]*\).*/\1/p' <<<"$line")
    api[$1]=$(sed -n 's/.* system_api="\{0,1\}\([0-9.:]*\).*/\1/p' <<<"$line")
    [[ ${rtmp[$1]} && ${http[$1]} && ${api[$1]} ]] || return
    curl --fail --silent --max-time 5 --output /dev/null "http://${api[$1]}/readyz"
}

# agree COUNT NODE...: whether each of the nodes sees so many that serve, and all see the same.
agree() {
    local count=$1 node
    shift
    for node in "$@"; do
        api "$node" cluster | jq --exit-status --argjson count "$count" '.stable and
            ([.members[] | select(.live and .state == "serving" and .same_view)] | length == $count)' >/dev/null || return
    done
}

# register ORIGIN NODE: sends the node the heartbeat that SRS sends by itself.
register() {
    local name=$1 pid=${pids[$1]}
    ids[$name]="$name-run1-$pid"
    curl --fail --silent --show-error --max-time 5 --output /dev/null --header 'Content-Type: application/json' \
        --data "{\"device_id\":\"$name\",\"ip\":\"127.0.0.1\",\"server\":\"$name\",\"service\":\"run1\",
                 \"pid\":\"$pid\",\"rtmp\":[\"${rtmp_ports[$name]}\"],\"http\":[\"${http_ports[$name]}\"]}" \
        "http://${api[$2]}/api/v1/srs/register"
}

has_origins() { [[ $(api "$1" origins | jq '.origins | length') == "$2" ]]; }

# api NODE PATH: asks a node.
api() { curl --fail --silent --show-error --max-time 5 "http://${api[$1]}/api/v1/proxy/$2"; }

# origin_of NODE STREAM: the name of the origin on which somebody publishes it through the node, if any.
origin_of() {
    local id name
    id=$(api "$1" streams | jq -r --arg s "__defaultVhost__/live/$2" \
        '.streams[] | select(.stream == $s and .publishers > 0) | .origin')
    for name in "${!ids[@]}"; do
        if [[ ${ids[$name]} == "$id" ]]; then echo "$name"; fi
    done
}

is_published() { [[ $(origin_of "$1" "$2") ]]; }

# publish NODE STREAM TONE: a test picture and a tone, encoded and sent by ffmpeg.
publish() {
    start "publisher-$2" ffmpeg -hide_banner -loglevel warning -re -f lavfi -i testsrc2=size=640x360:rate=25 \
        -f lavfi -i "sine=frequency=$3" -c:v libx264 -preset ultrafast -tune zerolatency -threads 1 -g 25 \
        -pix_fmt yuv420p -c:a aac -f flv "rtmp://${rtmp[$1]}/live/$2"
    wait_for 10 "$2 is published" is_published "$1" "$2"
    echo "$2 is published through $1 (rtmp://${rtmp[$1]}/live/$2), and placed on $(origin_of "$1" "$2")"
}

# watch URL WHAT: three seconds of it, decoded by ffprobe.
watch() {
    local url=$1 seen video audio
    seen=$(timeout 20 ffprobe -v error -read_intervals '%+3' -count_frames \
        -show_entries stream=codec_name,width,height,nb_read_frames -of json "$url") || fail "$url does not play"
    jq -r --arg what "$2 ($url)" '"\($what): " + ([.streams[] | .codec_name
        + (if .width then " \(.width)x\(.height)" else "" end) + ", \(.nb_read_frames) frames"] | join("; "))' <<<"$seen"
    video=$(jq '[.streams[] | select(.codec_name == "h264") | .nb_read_frames | tonumber] | add // 0' <<<"$seen")
    audio=$(jq '[.streams[] | select(.codec_name == "aac") | .nb_read_frames | tonumber] | add // 0' <<<"$seen")
    ((video >= 40 && audio >= 80)) || fail "$url: $video frames of video and $audio of audio are too few"
}

# play NODE STREAM: by RTMP.
play() { watch "rtmp://${rtmp[$1]}/live/$2" "$2 played through $1"; }

has_segments() { (($(curl --silent --max-time 5 "http://${http[$1]}/live/$2.m3u8" | grep --count '^[^#].*spstream=') >= 4)); }

# play_hls NODE STREAM: as HLS, once there is enough of it.
play_hls() {
    wait_for 20 "$2 has four segments" has_segments "$1" "$2"
    watch "http://${http[$1]}/live/$2.m3u8" "$2 played as HLS through $1"
}

# show NODE TITLE: what the node knows of the cluster.
show() {
    say "$2, as $1 says"
    "$proxy" cluster status --api "http://${api[$1]}"
    echo
    api "$1" origins | jq -r '"ORIGIN STATE STREAMS", (.origins[] | "\(.id) \(.state) \(.streams)")' | column -t
    echo
    api "$1" streams | jq -r '"STREAM ORIGIN PUBLISHERS PLAYERS",
        (.streams[] | "\(.stream) \(.origin) \(.publishers) \(.players)")' | column -t
}

say "Building the proxy"
cargo build --release --locked
proxy=$PWD/target/release/srs-proxy

say "Starting two origins and three nodes"
start_origin origin-a
start_origin origin-b
key=$(head --bytes=32 /dev/urandom | base64)
seeds=
for node in node-0 node-1 node-2; do
    gossip_ports[$node]=$(free_port)
    grpc_ports[$node]=$(free_port)
    seeds+=127.0.0.1:${gossip_ports[$node]},
done
for node in node-0 node-1 node-2; do start_node "$node" "${seeds%,}"; done
for node in node-0 node-1 node-2; do wait_for 15 "$node is ready" node_is_ready "$node"; done
wait_for 15 "the nodes see each other" agree 3 node-0 node-1 node-2
register origin-a node-0
register origin-b node-1
for node in node-0 node-1 node-2; do wait_for 5 "$node knows both origins" has_origins "$node" 2; done
echo "origin-a has registered through node-0, origin-b through node-1; all three nodes know both"

say "Publishing through node-0, playing through node-2 at once"
publish node-0 movie 440
play node-2 movie
publish node-2 concert 660
play node-1 concert
play_hls node-1 movie
play_hls node-0 concert
lost=$(origin_of node-0 movie)
left=$(origin_of node-2 concert)
[[ $lost != "$left" ]] || fail "both streams are on $lost"
show node-2 "What the nodes know"

say "Killing node-1"
stop node-1
publish node-2 news 880
play node-0 news
play node-2 movie
play_hls node-2 movie
is_alive publisher-movie || fail "the movie was interrupted"
is_alive publisher-concert || fail "the concert was interrupted"
wait_for 15 "the nodes that are left see each other" agree 2 node-0 node-2
show node-0 "What the nodes know without node-1"

say "Killing $lost, which holds the movie, and publishing the movie again"
stop "$lost"
# The encoder notices that its connection is gone, as OBS does; OBS would come back by itself.
wait_for 5 "the encoder is disconnected" is_gone publisher-movie
publish node-0 movie 440
[[ $(origin_of node-0 movie) == "$left" ]] || fail "the movie is not on $left"
play node-2 movie
play_hls node-2 movie
play node-0 concert
is_alive publisher-concert || fail "the concert was interrupted"
show node-2 "What the nodes know now"

say "Everything was as it should be."
