use super::*;

fn names(listens_on: &str, hosts: &[&str], change: impl FnOnce(&mut Reach)) -> Names {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let mut reach = Reach { hosts, ..Reach::default() };
    change(&mut reach);
    Names::new(&reach, listens_on.parse().unwrap())
}

fn with_tls(reach: &mut Reach) {
    reach.tls_cert = Some("cert.pem".into());
}

fn behind_proxy(reach: &mut Reach) {
    reach.behind_proxy = true;
}

/// The slug of the refusal, or nothing.
fn asked(names: &Names, method: &Method, headers: &[(&'static str, &str)]) -> &'static str {
    let headers = headers.iter().map(|(name, value)| {
        let value = HeaderValue::from_str(value).unwrap();
        (axum::http::HeaderName::from_static(name), value)
    });
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    match names.check(method, &Uri::from_static("/v1/jobs"), &map) {
        Ok(()) => "",
        Err(ApiError::ForbiddenHost(_)) => "host",
        Err(ApiError::ForbiddenOrigin(_)) => "origin",
        Err(other) => panic!("{other}"),
    }
}

fn host(names: &Names, host: &str) -> bool {
    asked(names, &Method::GET, &[("host", host)]).is_empty()
}

#[test]
fn on_loopback_a_name_is_localhost_or_given() {
    let names = names("127.0.0.1", &["box.local"], |_| {});
    for good in
        ["localhost", "LocalHost:3277", "127.0.0.1:3277", "127.5.5.5", "[::1]:3277", "box.local:1"]
    {
        assert!(host(&names, good), "{good}");
    }
    for bad in [
        "evil.example:3277",
        "localhost.evil.example",
        "evil.localhost",
        "10.0.0.5:3277",
        "0.0.0.0:3277",
        "box.local.evil.example",
        "user@localhost",
        "",
        "a b",
    ] {
        assert!(!host(&names, bad), "{bad}");
    }
    // Who sends no name at all is no browser.
    assert_eq!(asked(&names, &Method::POST, &[]), "");
}

#[test]
fn every_name_that_is_asked_for_must_be_the_servers() {
    let names = names("127.0.0.1", &[], |_| {});
    let both = [("host", "localhost"), ("host", "evil.example")];
    assert_eq!(asked(&names, &Method::GET, &both), "host");
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
    let line = Uri::from_static("http://evil.example/v1/jobs");
    assert!(matches!(
        names.check(&Method::GET, &line, &headers),
        Err(ApiError::ForbiddenHost(name)) if name == "evil.example"
    ));
}

#[test]
fn beyond_loopback_addresses_are_good_and_names_must_be_given() {
    for listens_on in ["0.0.0.0", "10.0.0.5", "::"] {
        let names = names(listens_on, &["Farrow.Example.org."], behind_proxy);
        for good in ["10.0.0.5:3277", "54.1.2.3", "[2001:db8::1]:1", "farrow.example.org"] {
            assert!(host(&names, good), "{listens_on} {good}");
        }
        assert!(!host(&names, "evil.example:3277"));
    }
}

#[test]
fn behind_tls_any_name_is_good_unless_some_are_given() {
    assert!(host(&names("0.0.0.0", &[], with_tls), "any.example"));
    let given = names("0.0.0.0", &["farrow.example.org"], with_tls);
    assert!(host(&given, "farrow.example.org") && host(&given, "10.0.0.5"));
    assert!(!host(&given, "any.example"));
}

#[test]
fn a_page_of_another_site_is_refused_whatever_it_asks() {
    let names = names("127.0.0.1", &[], |_| {});
    for (origin, is_good) in [
        ("http://localhost:3277", true),
        ("http://LOCALHOST:3277", true),
        ("http://localhost:8000", false),
        ("http://127.0.0.1:3277", false),
        ("https://localhost:3277", false),
        ("http://localhost", false),
        ("https://evil.example", false),
        ("http://localhost:3277@evil.example", false),
        ("file://", false),
        ("null", false),
        ("", false),
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let headers = [("host", "localhost:3277"), ("origin", origin)];
            let refusal = asked(&names, &method, &headers);
            assert_eq!(refusal.is_empty(), is_good, "{origin}");
        }
    }
    // The port that is not written is the scheme's.
    let headers = [("host", "localhost"), ("origin", "http://localhost")];
    assert_eq!(asked(&names, &Method::POST, &headers), "");
}

#[test]
fn the_origin_is_that_of_tls_or_of_the_proxy() {
    let tls = names("10.0.0.5", &[], with_tls);
    let from = |origin| [("host", "farrow.example.org"), ("origin", origin)];
    assert_eq!(asked(&tls, &Method::POST, &from("https://farrow.example.org")), "");
    assert_eq!(asked(&tls, &Method::POST, &from("http://farrow.example.org")), "origin");
    assert_eq!(asked(&tls, &Method::POST, &from("https://evil.example")), "origin");

    let proxy = names("127.0.0.1", &["farrow.example.org"], behind_proxy);
    for host in ["127.0.0.1:3277", "farrow.example.org"] {
        let from = |origin| [("host", host), ("origin", origin)];
        assert_eq!(asked(&proxy, &Method::POST, &from("https://farrow.example.org")), "", "{host}");
        let other_port = from("https://farrow.example.org:8443");
        assert_eq!(asked(&proxy, &Method::POST, &other_port), "origin", "{host}");
    }
}

#[test]
fn what_a_page_of_another_site_would_change_is_refused_also_without_an_origin() {
    let names = names("127.0.0.1", &[], |_| {});
    for (site, method, refusal) in [
        ("cross-site", Method::POST, "origin"),
        ("cross-site", Method::DELETE, "origin"),
        ("cross-site", Method::GET, ""),
        ("same-origin", Method::POST, ""),
        ("none", Method::POST, ""),
    ] {
        let headers = [("host", "localhost:3277"), ("sec-fetch-site", site)];
        assert_eq!(asked(&names, &method, &headers), refusal, "{site}");
    }
}

#[test]
fn a_name_is_given_alone() {
    for bad in ["https://x", "x:3277", "x/y", "", "a b", "*"] {
        assert!(bad.parse::<HostName>().is_err(), "{bad}");
    }
    let address = HostName::Address([10, 0, 0, 5].into());
    assert_eq!("10.0.0.5".parse(), Ok(address.clone()));
    assert_eq!("[::ffff:10.0.0.5]".parse(), Ok(address));
}
