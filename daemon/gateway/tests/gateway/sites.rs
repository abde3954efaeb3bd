//! What is live, as a browser sees it.

use crate::support::{Server, get};
use serde_json::json;

#[tokio::test]
async fn a_site_is_served_by_port_by_name_and_by_path() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let files = json!({"index.html": "<h1>home</h1>", "app-BZ3kq9aX.js": "let a = 1", "docs/index.html": "docs", "data.json": "{}"});
    let released =
        user.deploy(json!({"site": {"replace": files}, "subdomains": {"set": ["demo"]}})).await.expect("a release");
    let own = released.urls["project"].as_str().expect("a URL");
    let home = get(own).await;
    let header =
        |response: &reqwest::Response, name: &str| response.headers()[name].to_str().expect("a text").to_owned();
    assert_eq!((home.status().as_u16(), header(&home, "content-type").as_str()), (200, "text/html; charset=utf-8"));
    assert_eq!(
        (header(&home, "cache-control").as_str(), header(&home, "x-content-type-options").as_str()),
        ("no-cache", "nosniff")
    );
    assert_eq!(home.text().await.expect("a text"), "<h1>home</h1>");
    let script = get(&format!("{own}app-BZ3kq9aX.js")).await;
    assert!(header(&script, "cache-control").contains("immutable"));
    assert_eq!(get(&format!("{own}docs")).await.url().path(), "/docs/");
    assert_eq!(get(&format!("{own}some/page")).await.text().await.expect("a text"), "<h1>home</h1>");
    assert_eq!(get(&format!("{own}missing.css")).await.status(), 404);
    let by_path = get(released.urls["path"].as_str().expect("a URL")).await;
    assert!(header(&by_path, "content-security-policy").starts_with("sandbox"));
    assert_eq!(by_path.text().await.expect("a text"), "<h1>home</h1>");
    let bare = reqwest::Client::new();
    let by_name = bare.get(format!("{}/data.json", server.base)).header("host", "demo.localhost:1234");
    assert_eq!(by_name.send().await.expect("an answer").text().await.expect("a text"), "{}");
    let by_id =
        bare.get(format!("{}/", server.base)).header("host", format!("{}.localhost", user.project.replace('_', "-")));
    assert_eq!(by_id.send().await.expect("an answer").status(), 200);
    let api = bare.get(format!("{}/apply/v1/releases/active", server.base)).header("host", "demo.localhost");
    assert_eq!(
        api.send().await.expect("an answer").text().await.expect("a text"),
        "<h1>home</h1>",
        "the API is not at a site's name"
    );
}

#[tokio::test]
async fn conditions_and_ranges_are_kept() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let released = user.deploy(json!({"site": {"replace": {"a.txt": "0123456789"}}})).await.expect("a release");
    let url = format!("{}a.txt", released.url().expect("a URL"));
    let bare = reqwest::Client::new();
    let ask = |name: &'static str, value: String| bare.get(&url).header(name, value).send();
    let tag = get(&url).await.headers()["etag"].to_str().expect("a tag").to_owned();
    assert_eq!(ask("if-none-match", tag.clone()).await.expect("an answer").status(), 304);
    let part = ask("range", "bytes=2-4".to_owned()).await.expect("an answer");
    assert_eq!(
        (part.status().as_u16(), part.headers()["content-range"].to_str().expect("a range")),
        (206, "bytes 2-4/10")
    );
    assert_eq!(part.text().await.expect("a text"), "234");
    assert_eq!(ask("range", "bytes=-3".to_owned()).await.expect("an answer").text().await.expect("a text"), "789");
    assert_eq!(ask("range", "bytes=10-".to_owned()).await.expect("an answer").status(), 416);
    let stale =
        bare.get(&url).header("range", "bytes=2-4").header("if-range", "\"other\"").send().await.expect("an answer");
    assert_eq!(stale.status(), 200);
    let head = bare.head(&url).send().await.expect("an answer");
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().expect("a length")), (200, "10"));
    let post = bare.post(&url).send().await.expect("an answer");
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().expect("methods")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn no_path_reaches_outside_the_site() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let released = user.deploy(json!({"site": {"replace": {"a.txt": "a"}}})).await.expect("a release");
    let host = released.url().expect("a URL").trim_start_matches("http://").trim_end_matches('/').to_owned();
    for path in [
        "/../gateway.db",
        "/%2e%2e/gateway.db",
        "/..%2fgateway.db",
        "/a.txt/../../x",
        "//etc/passwd",
        "/%00",
        "/\\..\\x",
        "/%c0%ae%c0%ae/x",
    ] {
        // By hand: a client would tidy the path up first.
        let mut stream = tokio::net::TcpStream::connect(&host).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_url_is_explained() {
    let server = Server::start().await;
    let user = server.user(1).await;
    let released =
        user.deploy(json!({"site": {"replace": {"index.html": "x", "a.css": "y"}}})).await.expect("a release");
    let host = released.urls["site"].as_str().expect("a URL");
    let explain = async |path: &str| {
        run402::api::releases::diagnose_url(&user.client, &user.project, &format!("{host}{path}"), "get")
            .await
            .expect("an explanation")
    };
    let exact = explain("a.css?v=1").await;
    assert_eq!(
        (exact["match"].as_str(), exact["would_serve"].as_bool(), exact["ignored"]["query"].as_str()),
        (Some("static_exact"), Some(true), Some("v=1"))
    );
    assert_eq!(explain("deep/link").await["match"], "spa_fallback");
    assert_eq!(explain("missing.js").await["would_serve"], false);
    let foreign = run402::api::releases::diagnose_url(&user.client, &user.project, "http://example.com/", "get").await;
    assert_eq!(foreign.expect("an explanation")["match"], "host_missing");
}
