"""What the facts leave open of each provider: examples, constants, and what is told elsewhere.

Tables of ``make_dialects.py``. Nothing in them is taken from our own files.
"""

from typing import Any, Final

# What a test fills in where the facts have no example, or where the example is no use.
FILL: Final[dict[str, dict[str, str]]] = {
    "amazon-selling-partner": {"application_id": "amzn1.sp.solution.1"},
    "auth0": {"audience": "https://api.acme.example"},
    "basecamp": {"app_name": "Keyturn", "app_contact": "ops@example.com"},
    "generic-oauth2": {
        "authorize_url": "https://provider.example/authorize",
        "token_url": "https://provider.example/token",
    },
    "generic-oidc": {"issuer": "https://idp.example"},
    "generic-jwt-bearer": {
        "token_url": "https://provider.example/token",
        "jwt_issuer": "issuer",
        "audience": "https://provider.example",
    },
    "generic-oauth2-client-credentials": {"token_url": "https://provider.example/token"},
    "google-ads": {"developer_token": "a-developer-token"},
    "mcp-oauth": {"mcp_server_url": "https://mcp.example/mcp"},
    "reddit": {"app_user_agent": "linux:keyturn:1.0 (by /u/example)"},
    "zoho": {"accounts_host": "accounts.zoho.eu"},  # told by the callback, and not the default
}
# The endpoints that a metadata document tells.
DISCOVERED: Final = {
    "generic-oidc": "https://idp.example/{endpoint}",
    "mcp-oauth": "https://as.example/{endpoint}",
    "epic-smart": "https://fhir.hospital.org/oauth2/{endpoint}",
}
KEYS_AT: Final = {
    "apple": "appleid.apple.com/auth/keys",
    "telegram-oidc": "oauth.telegram.org/.well-known/jwks.json",
}
ID_ALGORITHM: Final = {"line": "HS256"}
ECHOES_NO_NONCE: Final = {"telegram-oidc"}
NUMBERED: Final = {  # their account ids are numbers
    "acuity-scheduling",
    "basecamp",
    "clickup",
    "etsy",
    "github-app-user",
    "github-oauth-app",
    "gitlab",
    "hubspot",
    "mailchimp",
    "pipedrive",
    "quickbooks",
    "shopify",
    "smartsheet",
    "strava",
    "telegram-oidc",
    "zendesk",
    "zoho",
}
SCOPES: Final = {  # so that there are two to separate, where the facts name fewer
    "bitbucket": ["account", "repository"],
    "ebay": ["https://api.ebay.com/oauth/api_scope/sell.inventory"],
    "klaviyo": ["profiles:read"],
    "pinterest": ["pins:read"],
    "threads": ["threads_content_publish"],
    "todoist": ["data:delete"],
    "twitch": ["chat:read"],
}
# Added to what a reply tells, so that nobody is right who falls back on what is usual.
ODD: Final = 77
LIFETIME: Final = {  # where the facts leave it to a setting
    "generic-oauth2": 3600,
    "generic-jwt-bearer": 3600,
    "generic-oauth2-client-credentials": 3600,
    "generic-oidc": 3600,
    "github-oauth-app": 28800,
    "mcp-oauth": 3600,
    "notion": None,
    "slack": 43200,
    "slack-user": 43200,
}
NO_REFRESH: Final = ("never", "unknown", "only in the new OAuth 2.1 flow")
MORE_SCOPES: Final = {"slack": "users:read,chat:write", "hubspot": "crm.objects.contacts.read"}
CONSTANT: Final[dict[str, Any]] = {  # captured values that are nobody's
    "account_uuid": "0c1f2b5e-7a55-4d1c-9f2f-2a61f0a9c001",
    "accounts-server": "https://accounts.zoho.eu",
    "api_domain": "https://www.zohoapis.eu",
    "api_url": "https://api.zoom.us",
    "app_id": "A012ABCD0A0",
    "bot_id": "b0688871-85db-4637-8fc9-043a240f0000",
    "bot_user_id": "U0KRQLJ9H",
    "companyId": "company-1",
    "context": "stores/abc123",
    "created_at": 1763700000,
    "encounter": "enc-1",
    "endpoint_id": "endpoint-1",
    "fhirUser": "Patient/ada",
    "guild_id": "290926798626357250",
    "host": "www.wrike.com",
    "hub_id": 62515,
    "installation_id": "123",
    "instance_url": "https://acme.my.salesforce.com",
    "is_enterprise_install": False,
    "issued_at": "1763700000000",
    "livemode": False,
    "location": "eu",
    "locationId": "location-1",
    "mws_auth_token": "amzn.mws.1",
    "organization": "https://api.calendly.com/organizations/1",
    "organization_id": "00Dx0000000BV7z",
    "permissions": "8",
    "setup_action": "install",
    "short_lived": False,
    "stripe_publishable_key": "pk_live_1",
    "team.id": "T9TK3CUKW",
    "team.name": "Acme",
    "team_id": "team-1",
    "tid": "9188040d-6c67-4c5b-b112-36a304b66dad",
    "userType": "Location",
    "workspace_id": "3d2b1a5e-9c0e-4f0e-8d4e-111111111111",
    "workspace_name": "Acme's Notion",
}
SPECIAL: Final[dict[tuple[str, str], Any]] = {  # where a name means something else
    ("gong", "api_base_url_for_customer"): "https://acme.api.gong.io",
    ("gong", "client_id"): "{client_id}",
    ("pipedrive", "api_domain"): "https://acme.pipedrive.com",
    ("shopify", "associated_user.id"): 902541635,
    ("stripe-connect", "stripe_user_id"): "acct_{account}",
    ("salesforce", "id"): "https://login.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P",
    ("salesforce-sandbox", "id"): "https://test.salesforce.com/id/00Dx0000000BV7z/005x00000012Q9P",
}
ABSENT: Final = {  # captured where the provider has them; here it has not
    "discord": {"guild.id", "webhook.url"},
    "slack": {"enterprise.id", "incoming_webhook.url"},
    "slack-user": {"enterprise.id"},
    "salesforce": {"sfdc_community_url"},
    "salesforce-sandbox": {"sfdc_community_url"},
    "notion": {"duplicated_template_id"},
    "dropbox": {"team_id"},
    "box": {"restricted_to"},
}
CHOICES: Final[dict[str, Any]] = {  # what the look-ups after a consent say
    "jira": [
        {"id": "site-1", "url": "https://one.atlassian.net", "name": "One", "scopes": []},
        {"id": "site-2", "url": "https://two.atlassian.net", "name": "Two", "scopes": []},
    ],
    "basecamp": {
        "accounts": [
            {"id": 99, "name": "One", "href": "https://3.basecampapi.com/99", "product": "bc3"},
            {"id": 100, "name": "Two", "href": "https://3.basecampapi.com/100", "product": "bc3"},
        ]
    },
    "xero": [
        {"tenantId": "tenant-1", "tenantName": "One", "tenantType": "ORGANISATION"},
        {"tenantId": "tenant-2", "tenantName": "Two", "tenantType": "ORGANISATION"},
    ],
    "docusign": {
        "accounts": [
            {
                "account_id": "docu-1",
                "account_name": "One",
                "base_uri": "https://eu.docusign.net",
                "is_default": True,
            },
            {
                "account_id": "docu-2",
                "account_name": "Two",
                "base_uri": "https://na.docusign.net",
                "is_default": False,
            },
        ]
    },
    "mailchimp": {"dc": "us21", "api_endpoint": "https://us21.api.mailchimp.com"},
}
CHOICES["confluence"] = CHOICES["jira"]
