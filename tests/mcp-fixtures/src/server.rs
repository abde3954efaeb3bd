//! The protocol's requests, each handed to whoever has the fixtures for it.

use crate::tools::Changed;
use crate::{asking, prompts, resources, skills, tasks, tools};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, GetPromptRequestParams, GetPromptResponse,
    GetSkillRequestParams, GetSkillResult, GetTaskParams, GetTaskResult, Implementation, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListSkillsResult, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ReadResourceDirectoryRequestParams, ReadResourceRequestParams, ReadResourceResponse,
    ServerCapabilities, ServerConfig, SetLevelRequestMethod, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};

type Context = RequestContext<RoleServer>;
type Page = Option<PaginatedRequestParams>;

/// Whether this revision of the protocol has no sessions.
pub(crate) fn is_stateless(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// One for each session, or for each request without one; what outlives it is static, where it belongs.
#[derive(Debug)]
pub(crate) struct Fixtures;

fn all_tools() -> impl Iterator<Item = Tool> {
    tools::listed().into_iter().chain(asking::listed()).chain(tasks::listed())
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_completions()
            .enable_logging()
            .enable_tasks()
            .enable_skills_with_directory_read()
            .build();
        let mut server = Implementation::from_build_env();
        server.name = "sandbox-mcp-fixtures".to_owned();
        server.version = env!("CARGO_PKG_VERSION").to_owned();
        ServerConfig::new(capabilities).with_server_info(server)
    }

    async fn list_tools(&self, _page: Page, _context: Context) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult { tools: all_tools().collect(), ..ListToolsResult::default() })
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        all_tools().find(|tool| tool.name == name)
    }

    async fn call_tool(&self, request: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        if let Some(result) = tools::call(&request, &context).await {
            return result;
        }
        if let Some(result) = asking::call(&request, &context).await {
            return result;
        }
        let unknown = || Err(ErrorData::invalid_params(format!("there is no tool named {}", request.name), None));
        tasks::call(&request, &context).await.unwrap_or_else(unknown)
    }

    async fn get_task(&self, request: GetTaskParams, _context: Context) -> Result<GetTaskResult, ErrorData> {
        tasks::all().get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(&self, request: UpdateTaskParams, _context: Context) -> Result<(), ErrorData> {
        tasks::all().update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(&self, request: CancelTaskParams, _context: Context) -> Result<(), ErrorData> {
        tasks::all().cancel_task(&request.task_id)
    }

    async fn list_prompts(&self, _page: Page, _context: Context) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult { prompts: prompts::listed(), ..ListPromptsResult::default() })
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(&request, &context).await
    }

    async fn list_resources(&self, _page: Page, _context: Context) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult { resources: resources::listed(), ..ListResourcesResult::default() })
    }

    async fn list_resource_templates(
        &self,
        _page: Page,
        _context: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let resource_templates = resources::templates();
        Ok(ListResourceTemplatesResult { resource_templates, ..ListResourceTemplatesResult::default() })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri).map(Into::into)
    }

    async fn list_skills(&self, _page: Page, _context: Context) -> Result<ListSkillsResult, ErrorData> {
        Ok(ListSkillsResult { skills: skills::listed(), ..ListSkillsResult::default() })
    }

    async fn get_skill(&self, request: GetSkillRequestParams, _context: Context) -> Result<GetSkillResult, ErrorData> {
        skills::named(&request.uri).map(GetSkillResult::new)
    }

    async fn read_resource_directory(
        &self,
        request: ReadResourceDirectoryRequestParams,
        _context: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult { resources: skills::folder(&request.uri)?, ..ListResourcesResult::default() })
    }

    /// Every level is sent, so there is nothing to set; later revisions do not have the method.
    async fn set_level(&self, _request: SetLevelRequestParams, context: Context) -> Result<(), ErrorData> {
        if is_stateless(&context) {
            return Err(ErrorData::method_not_found::<SetLevelRequestMethod>());
        }
        Ok(())
    }

    /// Nothing here changes, so there is nothing to tell.
    async fn subscribe(&self, _request: SubscribeRequestParams, _context: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(&self, _request: UnsubscribeRequestParams, _context: Context) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = tools::changes();
        loop {
            let changed = tokio::select! {
                () = subscription.cancelled() => return Ok(()),
                changed = changes.recv() => changed,
            };
            // What was not asked for is refused, which is what it should be.
            let _ = match changed {
                Ok(Changed::Tools) => subscription.sink().notify_tool_list_changed().await,
                Ok(Changed::Prompts) => subscription.sink().notify_prompt_list_changed().await,
                // Whoever was too slow has missed some.
                Err(_) => Ok(()),
            };
        }
    }
}
