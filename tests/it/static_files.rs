//! Files beside the streams, over real connections.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Router, extract::Request};
use rustix::fs::{CWD, Mode, mkfifoat};
use srs_proxy::server::{
    admission,
    http::{Limits, Server},
    streams::static_files::StaticFiles,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use srs_proxy_test_support::raw_http::{Answer, Client};

const LIMITS: Limits = Limits {
    header_timeout: Duration::from_mins(1),
    request_timeout: Duration::from_mins(1),
    idle_timeout: Duration::from_mins(1),
    send_timeout: Duration::from_mins(1),
    connections: admission::Limits { max: 100, max_per_ip: 100, settings: ["MAX"; 2] },
    linger: Duration::from_mins(1),
};
/// What must never be served.
const SECRET: &str = "nobody is to read this";
/// When the files of these tests were changed, in seconds of Unix time, and how HTTP writes that.
const CHANGED: u64 = 1_700_000_000;
const CHANGED_DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
const EARLIER_DATE: &str = "Tue, 14 Nov 2023 22:13:19 GMT";

/// A server of the directory `www`, which stands beside a file that is none of its own.
struct Site {
    dir: TempDir,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        let files = Arc::new(StaticFiles::new(dir.path().join("www")));
        let serve = move |request: Request| {
            let files = Arc::clone(&files);
            async move { files.serve(request).await }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server {
            router: Router::new().fallback(serve),
            metrics: srs_proxy::metrics::ListenerMetrics::default(),
            limits: LIMITS,
            workers: None,
            stop: CancellationToken::new(),
            close: CancellationToken::new(),
        };
        Self { dir, address, task: tokio::spawn(server.run(listener)) }
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("www").join(name)
    }

    /// Writes a file that was changed long ago.
    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(CHANGED);
        File::options().write(true).open(path).unwrap().set_modified(changed).unwrap();
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.get_with(path, "").await
    }

    /// Lines of `headers` end with `\r\n`.
    async fn get_with(&self, path: &str, headers: &str) -> Answer {
        let mut client = self.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await;
        client.answer().await
    }
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[tokio::test]
async fn a_file_comes_with_its_type_length_and_validators() {
    let site = Site::start().await;
    for (name, mime) in [
        ("index.html", "text/html"),
        ("player.js", "text/javascript"),
        ("a/b/style.css", "text/css"),
        ("logo.svg", "image/svg+xml"),
        ("clip.mp4", "video/mp4"),
        ("caf\u{e9} 1.txt", "text/plain"),
        ("no-extension", "application/octet-stream"),
    ] {
        site.write(name, name);
        let path = name.replace('\u{e9}', "%C3%A9").replace(' ', "%20");
        let answer = site.get(&format!("/{path}?v=1")).await;
        assert_eq!((answer.status, text(&answer)), (200, name));
        assert_eq!(answer.header("content-type"), Some(mime));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("last-modified"), Some(CHANGED_DATE));
        let tag = answer.header("etag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    }
}

#[tokio::test]
async fn a_head_is_answered_as_a_get_without_the_body() {
    let site = Site::start().await;
    site.write("a.txt", "0123456789");
    let mut client = site.client().await;
    let mut get = client.get("/a.txt").await;
    for range in ["", "Range: bytes=2-3\r\n", "Range: bytes=99-\r\n"] {
        client.send(format!("HEAD /a.txt HTTP/1.1\r\nHost: test\r\n{range}\r\n")).await;
        let mut head = client.head().await.unwrap();
        assert_eq!(head.status, 200);
        for answer in [&mut get, &mut head] {
            answer.headers.retain(|(name, _)| name != "date");
            answer.headers.sort();
        }
        assert_eq!(head.headers, get.headers);
    }
    client.send("HEAD /missing HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 404);
    fs::create_dir_all(site.path("odd/index.html")).unwrap();
    client.send("HEAD /odd/ HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 404);
    assert_eq!(client.get("/a.txt").await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let site = Site::start().await;
    site.write("a.txt", "text");
    let tag = site.get("/a.txt").await.header("etag").unwrap().to_owned();
    for condition in [
        format!("If-None-Match: {tag}\r\n"),
        format!("If-None-Match: W/{tag}\r\n"),
        format!("If-None-Match: \"x\", {tag}\r\n"),
        "If-None-Match: *\r\n".to_owned(),
        format!("If-Modified-Since: {CHANGED_DATE}\r\n"),
        // The tag counts where both are given.
        format!("If-None-Match: {tag}\r\nIf-Modified-Since: {EARLIER_DATE}\r\n"),
        format!("If-None-Match: {tag}\r\nRange: bytes=0-1\r\n"),
    ] {
        let answer = site.get_with("/a.txt", &condition).await;
        assert_eq!((answer.status, text(&answer)), (304, ""), "{condition}");
        assert_eq!(answer.header("etag"), Some(tag.as_str()));
    }
    for condition in [
        "If-None-Match: \"x\"\r\n".to_owned(),
        format!("If-Modified-Since: {EARLIER_DATE}\r\n"),
        format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {CHANGED_DATE}\r\n"),
        "If-Modified-Since: yesterday\r\n".to_owned(),
    ] {
        let answer = site.get_with("/a.txt", &condition).await;
        assert_eq!((answer.status, text(&answer)), (200, "text"), "{condition}");
    }
    let answer = site.get_with("/a.txt", "If-Match: \"x\"\r\n").await;
    assert_eq!(answer.status, 412);
    assert_eq!(answer.error(), "the file has changed");

    site.write("a.txt", "other text");
    let answer = site.get_with("/a.txt", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((answer.status, text(&answer)), (200, "other text"));
}

#[tokio::test]
async fn a_file_that_has_just_changed_has_a_tag_that_holds_for_whole_answers_only() {
    let site = Site::start().await;
    site.write("a.txt", "0123456789");
    // A little ahead, so that it is still so on a machine that takes its time.
    let changed = SystemTime::now() + Duration::from_mins(1);
    File::options().write(true).open(site.path("a.txt")).unwrap().set_modified(changed).unwrap();
    let tag = site.get("/a.txt").await.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    assert_eq!(site.get_with("/a.txt", &format!("If-None-Match: {tag}\r\n")).await.status, 304);
    let range = format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n");
    assert_eq!(site.get_with("/a.txt", &range).await.status, 200);
}

#[tokio::test]
async fn one_range_is_answered_alone_and_any_other_with_the_whole_file() {
    let site = Site::start().await;
    site.write("a.txt", "0123456789");
    for (range, content_range, body) in [
        ("bytes=0-0", "bytes 0-0/10", "0"),
        ("bytes=2-5", "bytes 2-5/10", "2345"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=7-99", "bytes 7-9/10", "789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("Bytes=-10", "bytes 0-9/10", "0123456789"),
    ] {
        let answer = site.get_with("/a.txt", &format!("Range: {range}\r\n")).await;
        assert_eq!((answer.status, text(&answer)), (206, body), "{range}");
        assert_eq!(answer.header("content-range"), Some(content_range));
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        let answer = site.get_with("/a.txt", &format!("Range: {range}\r\n")).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */10"));
        assert_eq!(answer.error(), "the file ends before the range");
    }
    for range in ["bytes=0-1,4-5", "bytes=5-2", "items=0-1", "bytes=x", "0-1", "bytes=-11"] {
        let answer = site.get_with("/a.txt", &format!("Range: {range}\r\n")).await;
        assert_eq!((answer.status, text(&answer)), (200, "0123456789"), "{range}");
    }
    site.write("empty.txt", "");
    for headers in ["", "Range: bytes=0-\r\n", "Range: bytes=-5\r\n"] {
        let answer = site.get_with("/empty.txt", headers).await;
        assert_eq!((answer.status, text(&answer)), (200, ""), "{headers}");
    }
}

#[tokio::test]
async fn a_download_goes_on_only_if_the_file_is_still_the_same() {
    let site = Site::start().await;
    site.write("a.txt", "0123456789");
    let tag = site.get("/a.txt").await.header("etag").unwrap().to_owned();
    for (range, condition, status, body) in [
        ("bytes=8-", tag.as_str(), 206, "89"),
        ("bytes=8-", CHANGED_DATE, 206, "89"),
        ("bytes=8-", "\"x\"", 200, "0123456789"),
        ("bytes=8-", EARLIER_DATE, 200, "0123456789"),
        ("bytes=8-", "*", 200, "0123456789"),
        // What a client has of a longer file that is no more is of no use to it.
        ("bytes=20-", "\"x\"", 200, "0123456789"),
    ] {
        let answer = site.get_with("/a.txt", &format!("Range: {range}\r\nIf-Range: {condition}\r\n")).await;
        assert_eq!((answer.status, text(&answer)), (status, body), "{range} {condition}");
    }
    let answer = site.get_with("/a.txt", &format!("Range: bytes=20-\r\nIf-Range: {tag}\r\n")).await;
    assert_eq!(answer.status, 416);
}

#[tokio::test]
async fn a_directory_is_its_index_and_never_listed() {
    let site = Site::start().await;
    site.write("players/index.html", "the index");
    site.write("data/file.txt", "text");
    let redirect = site.get("/players?a=1&b=%2F").await;
    assert_eq!(redirect.status, 307);
    assert_eq!(redirect.header("location"), Some("/players/?a=1&b=%2F"));
    let index = site.get("/players/").await;
    assert_eq!((index.status, text(&index)), (200, "the index"));
    assert_eq!(index.header("content-type"), Some("text/html"));
    for path in ["/", "/data/", "/data/file.txt/", "/data/file.txt/x"] {
        assert_eq!(site.get(path).await.error(), "no such file", "{path}");
    }
    site.write("index.html", "the first page");
    assert_eq!(text(&site.get("/").await), "the first page");
    // This would send the client to another host.
    assert_eq!(site.get("//players").await.status, 404);
}

#[tokio::test]
async fn no_path_leads_out_of_the_directory() {
    let site = Site::start().await;
    site.write("a/index.html", "the index");
    site.write(".hidden/file", SECRET);
    site.write("a/.env", SECRET);
    let absolute = site.dir.path().join("secret");
    for path in [
        "/../secret",
        "/a/../../secret",
        "/a/../a/index.html",
        "/./a/index.html",
        "/%2e%2e/secret",
        "/.%2E/secret",
        "/..%2fsecret",
        "/a%2f..%2f..%2fsecret",
        "/%2e%2e%2fsecret",
        "/%252e%252e/secret",
        "/..%5csecret",
        "/..\\secret",
        "/a/..;/../secret",
        "/%c0%ae%c0%ae/secret",
        "/a/index.html%00.txt",
        "/a/%00",
        "/.hidden/file",
        "/%2ehidden/file",
        "/a/.env",
        &format!("/{}", absolute.display()),
        &format!("/%2f{}", absolute.display()),
        &format!("/a/{}", "x".repeat(300)),
        &"/x".repeat(3000),
    ] {
        let answer = site.get(path).await;
        assert!(!text(&answer).contains(SECRET), "{path}");
        assert_eq!(answer.error(), "no such file", "{path}");
        assert_eq!(answer.status, 404);
    }
}

#[tokio::test]
async fn links_are_followed_within_the_directory_only() {
    let site = Site::start().await;
    // As Kubernetes mounts a ConfigMap.
    site.write("..2026_11_22/page.html", "the page");
    symlink("..2026_11_22", site.path("..data")).unwrap();
    symlink("..data/page.html", site.path("page.html")).unwrap();
    assert_eq!(text(&site.get("/page.html").await), "the page");

    site.write("a/deep/file.txt", "text");
    symlink("../a/deep", site.path("a/again")).unwrap();
    assert_eq!(text(&site.get("/a/again/file.txt").await), "text");

    symlink("../secret", site.path("relative.txt")).unwrap();
    symlink(site.dir.path().join("secret"), site.path("absolute.txt")).unwrap();
    symlink(site.dir.path(), site.path("outside")).unwrap();
    symlink("..", site.path("above")).unwrap();
    symlink("above", site.path("through")).unwrap();
    symlink("/dev/zero", site.path("zero")).unwrap();
    symlink("nowhere", site.path("dangling")).unwrap();
    symlink("round", site.path("round")).unwrap();
    for path in [
        "/relative.txt",
        "/absolute.txt",
        "/outside/secret",
        "/outside/www/a/deep/file.txt",
        "/above/secret",
        "/through/secret",
        "/outside",
        "/zero",
        "/dangling",
        "/round",
    ] {
        assert_eq!(site.get(path).await.error(), "no such file", "{path}");
    }
}

#[tokio::test]
async fn only_regular_files_are_served() {
    let site = Site::start().await;
    mkfifoat(CWD, site.path("fifo"), Mode::RWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(site.path("socket")).unwrap();
    for path in ["/fifo", "/socket"] {
        assert_eq!(site.get(path).await.error(), "no such file", "{path}");
    }
}

#[tokio::test]
async fn files_and_their_directory_may_come_go_and_be_replaced() {
    let site = Site::start().await;
    site.write("a.txt", "old");
    assert_eq!(text(&site.get("/a.txt").await), "old");
    fs::rename(site.path(""), site.dir.path().join("before")).unwrap();
    assert_eq!(site.get("/a.txt").await.status, 404);
    site.write("a.txt", "new");
    assert_eq!(text(&site.get("/a.txt").await), "new");
    fs::remove_file(site.path("a.txt")).unwrap();
    assert_eq!(site.get("/a.txt").await.status, 404);
}

#[tokio::test]
async fn a_file_larger_than_memory_is_served() {
    const LEN: u64 = 256 * 1024 * 1024 * 1024;
    let site = Site::start().await;
    File::create(site.path("large.bin")).unwrap().set_len(LEN).unwrap();
    let mut client = site.client().await;
    client.send("GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let length = client.head().await.unwrap().header("content-length").map(str::to_owned);
    assert_eq!(length, Some(LEN.to_string()));
    assert_eq!(client.some(8 * 1024 * 1024).await, 8 * 1024 * 1024);
    let end = site.get_with("/large.bin", "Range: bytes=-5\r\n").await;
    assert_eq!((end.status, end.body), (206, vec![0; 5]));
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_sent_ends_the_connection() {
    const LEN: u64 = 1024 * 1024 * 1024;
    let site = Site::start().await;
    let file = File::create(site.path("large.bin")).unwrap();
    file.set_len(LEN).unwrap();
    let mut client = site.client().await;
    client.send("GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    file.set_len(1).unwrap();
    assert!((client.until_closed().await.len() as u64) < LEN);
}

#[tokio::test]
async fn files_can_only_be_read() {
    let site = Site::start().await;
    site.write("a.txt", "text");
    let mut client = site.client().await;
    let answer = client.post("/a.txt", "", "other").await;
    assert_eq!(answer.status, 405);
    assert_eq!(answer.error(), "a file can only be read");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    assert_eq!(fs::read_to_string(site.path("a.txt")).unwrap(), "text");
}
