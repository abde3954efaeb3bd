//! Rules of the route table.

use super::{is_path, strict};
use crate::error::{Refusal, Result};
use crate::spec::{Route, RouteTarget, Routes};
use serde::Deserialize;
use std::collections::BTreeSet;

pub(super) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
pub(crate) const MAX_ROUTES: usize = 1000;
const MAX_PATTERN_BYTES: usize = 1024;

pub(super) fn check(routes: &Routes) -> Result<()> {
    if routes.replace.len() > MAX_ROUTES {
        return Err(Refusal::spec("routes.replace", format!("at most {MAX_ROUTES} routes are taken")));
    }
    let mut answered = BTreeSet::new();
    for (index, route) in routes.replace.iter().enumerate() {
        let at = format!("routes.replace[{index}]");
        check_route(&at, route)?;
        let methods =
            route.methods.as_ref().map_or(METHODS.to_vec(), |methods| methods.iter().map(String::as_str).collect());
        if let Some(method) = methods.into_iter().find(|method| !answered.insert((&route.pattern, method.to_string())))
        {
            return Err(Refusal::spec(&at, format!("another route answers {method} {} already", route.pattern)));
        }
    }
    Ok(())
}

fn check_route(at: &str, route: &Route) -> Result<()> {
    let stars = route.pattern.matches('*').count();
    let wild = stars == 0 || stars == 1 && route.pattern.ends_with("/*");
    let plain = !route.pattern.contains(['?', '#', '\\', '\0']) && route.pattern.len() <= MAX_PATTERN_BYTES;
    if !route.pattern.starts_with('/') || !wild || !plain {
        let rule = "a pattern is a path, with /* at its end for everything below it";
        return Err(Refusal::spec(&format!("{at}.pattern"), rule));
    }
    if let Some(methods) = &route.methods {
        let unique: BTreeSet<&String> = methods.iter().collect();
        let known = methods.iter().all(|method| METHODS.contains(&method.as_str()));
        if methods.is_empty() || unique.len() != methods.len() || !known {
            let rule = format!("methods are one or more of {}, each once", METHODS.join(", "));
            return Err(Refusal::spec(&format!("{at}.methods"), rule));
        }
    }
    let reads = route
        .methods
        .as_ref()
        .is_some_and(|methods| methods.iter().all(|method| matches!(method.as_str(), "GET" | "HEAD")));
    match &route.target {
        RouteTarget::Function { name } => {
            if name.is_empty() {
                return Err(Refusal::spec(&format!("{at}.target.name"), "a function has a name"));
            }
        }
        RouteTarget::Static { file } => {
            if stars > 0 {
                return Err(Refusal::spec(&format!("{at}.pattern"), "a static target needs an exact pattern"));
            }
            if !reads || !route.allows("GET") {
                return Err(Refusal::spec(&format!("{at}.methods"), "a static target answers GET, or GET and HEAD"));
            }
            if !is_path(file) || file.contains(['?', '#', '\\']) {
                return Err(Refusal::spec(&format!("{at}.target.file"), "a file is a relative path"));
            }
        }
    }
    let function = matches!(route.target, RouteTarget::Function { .. });
    if let Some(acknowledged) = route.acknowledge_readonly
        && !(acknowledged && function && reads && wild && stars == 1)
    {
        let rule = "only true, and only for a function's route that ends in /* and has no methods but GET and HEAD";
        return Err(Refusal::spec(&format!("{at}.acknowledge_readonly"), rule));
    }
    let Some(pricing) = &route.pricing else { return Ok(()) };
    let at = format!("{at}.pricing");
    if !function {
        return Err(Refusal::spec(&at, "only a function's route can have a price"));
    }
    let price: Pricing = strict(pricing, &at)?;
    let networks = |list: &Vec<String>| !list.is_empty() && list.iter().all(|one| one == "mainnet" || one == "testnet");
    let good = price.mode == "always"
        && price.amount_usd_micros > 0
        && price.pay_to == "org_default_payout"
        && price.receipt.is_none_or(|receipt| receipt == "on_fulfillment")
        && price.networks.as_ref().is_none_or(networks);
    match good {
        true => Ok(()),
        false => Err(Refusal::spec(&at, "a price is always asked, positive, and paid to org_default_payout")),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pricing {
    mode: String,
    amount_usd_micros: u64,
    pay_to: String,
    #[serde(default)]
    networks: Option<Vec<String>>,
    #[serde(default)]
    receipt: Option<String>,
}

#[cfg(test)]
mod tests {
    use crate::spec::Spec;
    use serde_json::{Value, json};

    fn read(routes: Value) -> Result<(), String> {
        let spec = json!({"project_id": "p", "routes": {"replace": routes}});
        let resource = |refusal: Value| refusal["details"]["resource"].as_str().unwrap_or_default().to_owned();
        Spec::read(spec).map(drop).map_err(|refusal| resource(refusal.envelope()))
    }

    #[test]
    fn routes_say_where_they_are_wrong() {
        let function = json!({"type": "function", "name": "f"});
        let file = json!({"type": "static", "file": "a.html"});
        for (route, field) in [
            (json!({"pattern": "a", "target": function}), "pattern"),
            (json!({"pattern": "/a*", "target": function}), "pattern"),
            (json!({"pattern": "/*/b", "target": function}), "pattern"),
            (json!({"pattern": "/a", "methods": [], "target": function}), "methods"),
            (json!({"pattern": "/a", "methods": ["GET", "GET"], "target": function}), "methods"),
            (json!({"pattern": "/a", "methods": ["TRACE"], "target": function}), "methods"),
            (json!({"pattern": "/a", "target": file}), "methods"),
            (json!({"pattern": "/a", "methods": ["HEAD"], "target": file}), "methods"),
            (json!({"pattern": "/a/*", "methods": ["GET"], "target": file}), "pattern"),
            (json!({"pattern": "/a", "methods": ["GET"], "target": {"type": "static", "file": "../a"}}), "target.file"),
            (json!({"pattern": "/a/*", "target": function, "acknowledge_readonly": true}), "acknowledge_readonly"),
            (json!({"pattern": "/a", "target": function, "pricing": {"mode": "always"}}), "pricing"),
        ] {
            let refused = read(json!([route])).expect_err(&route.to_string());
            assert_eq!(refused, format!("routes.replace[0].{field}"), "{route}");
        }
        let twice =
            json!([{"pattern": "/a", "target": function}, {"pattern": "/a", "methods": ["PUT"], "target": function}]);
        assert_eq!(read(twice), Err("routes.replace[1]".to_owned()));
    }

    #[test]
    fn routes_that_share_a_pattern_by_method_are_taken() {
        read(json!([
            {"pattern": "/a", "methods": ["GET", "HEAD"], "target": {"type": "static", "file": "a.html"}},
            {"pattern": "/a", "methods": ["POST"], "target": {"type": "function", "name": "f"}},
            {"pattern": "/b/*", "methods": ["GET"], "target": {"type": "function", "name": "f"}, "acknowledge_readonly": true},
            {"pattern": "/c", "target": {"type": "function", "name": "f"},
                "pricing": {"mode": "always", "amount_usd_micros": 1000, "pay_to": "org_default_payout"}},
        ]))
        .expect("good routes");
    }
}
