//! The protocol's requests, each answered for the caller who sent it.

use super::profile::{Profile, Shown};
use super::tool::{Call, with_default_project};
use super::{answer, catalogue, prompts, resources, tasks};
use crate::service::{Error, Service};
use crate::tokens::Caller;
use axum::http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, GetPromptRequestParams, GetPromptResponse,
    GetTaskParams, GetTaskResult, Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
    ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SubscriptionFilter, UpdateTaskParams,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use std::sync::Arc;

const SESSION: &str = "mcp-session-id";
const INSTRUCTIONS: &str = "Runs commands in sandboxes, one per project: nothing outside the project's folder can be \
    written, and what a command may reach over the network is up to the project's policy. run_command runs a shell line \
    and answers with its exit code and output; create_project makes a project to run it in, build_and_deploy builds a \
    project and puts it on the web. A command that takes longer than 50 seconds goes on in the background: run_output \
    reads what it writes, run_kill ends it.";

/// One for each session, or for each request without one.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    service: Arc<Service>,
    /// All that a session remembers.
    shown: Shown,
}

impl Server {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service, shown: Shown::default() }
    }

    /// Who sent this very request, by its token, and the project that its address names.
    fn call(&self, context: RequestContext<RoleServer>) -> Result<Call, ErrorData> {
        let parts = context.extensions.get::<Parts>();
        let caller = parts.and_then(|parts| parts.extensions.get::<Caller>()).cloned();
        let caller = caller.ok_or_else(|| ErrorData::internal_error("a request without a caller", None))?;
        let query = parts.and_then(|parts| parts.uri.query()).unwrap_or_default();
        let default_project = field(query, "project");
        let groups = field(query, "tools").filter(|groups| groups != "all");
        let groups = groups.map(|groups| groups.split(',').map(str::to_owned).collect());
        let has_session = parts.is_some_and(|parts| parts.headers.contains_key(SESSION));
        let profile = Profile { groups, shown: has_session.then(|| Arc::clone(&self.shown)) };
        Ok(Call { service: Arc::clone(&self.service), caller, default_project, profile, context })
    }
}

/// `?NAME=VALUE`, of plain characters.
fn field(query: &str, name: &str) -> Option<String> {
    let mut values = query.split('&').filter_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    values.next_back().filter(|value| !value.is_empty()).map(|value| value.replace("%2C", ","))
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder();
        let capabilities = capabilities
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_prompts()
            .enable_tasks()
            .build();
        let mut server = Implementation::from_build_env();
        server.name = "sandboxd".to_owned();
        server.version = env!("CARGO_PKG_VERSION").to_owned();
        ServerConfig::new(capabilities).with_server_info(server).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let call = self.call(context)?;
        let has_project = call.default_project.is_some();
        let listed = catalogue::all().iter().filter(|listed| call.profile.lists(listed));
        let tools = listed.map(|listed| listed.tool.clone());
        let tools = if has_project { tools.map(with_default_project).collect() } else { tools.collect() };
        Ok(ListToolsResult { tools, ..ListToolsResult::default() })
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = self.call(context)?;
        let Some(listed) = catalogue::named(&request.name) else {
            let name: String = request.name.chars().take(64).collect();
            return Err(ErrorData::invalid_params(format!("there is no tool named {name}; see tools/list"), None));
        };
        let takes_tasks = tasks::declared(&call.context);
        let done = listed.action.take(call, request.arguments.unwrap_or_default()).await;
        // What a model can do something about is a result, which it reads; errors of the protocol it does not.
        Ok(match done {
            Ok(answer) => answer.into_response(takes_tasks),
            Err(error) => answer::failed(&error.into_problem()).into(),
        })
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        tasks::get(&self.call(context)?, &request.task_id).await
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        tasks::update(&self.call(context)?, &request.task_id).await
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        tasks::cancel(&self.call(context)?, &request.task_id).await
    }

    /// The revision without sessions subscribes to what in sessions is simply said. There a list is what the address says,
    /// so nothing ever comes of it.
    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        self.call(context)?;
        Ok(ListPromptsResult { prompts: prompts::listed(), ..ListPromptsResult::default() })
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        self.call(context)?;
        prompts::get(&request).map(Into::into)
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.call(context)?;
        Ok(ListResourcesResult { resources: resources::listed(), ..ListResourcesResult::default() })
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        self.call(context)?;
        Ok(ListResourceTemplatesResult {
            resource_templates: resources::templates(),
            ..ListResourceTemplatesResult::default()
        })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let call = self.call(context)?;
        let read = resources::read(&call, &request.uri).await;
        read.map(Into::into).map_err(|error: Error| resources::refused(error.into_problem(), &request.uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_may_name_a_project() {
        let named = |query: &str| field(query, "project");
        assert_eq!(named("project=demo"), Some("demo".to_owned()));
        assert_eq!(named("a=b&project=demo"), Some("demo".to_owned()));
        assert_eq!([named("project="), named("projects=x"), named("")], [None, None, None]);
        assert_eq!(field("tools=run%2Cfiles", "tools"), Some("run,files".to_owned()));
    }
}
