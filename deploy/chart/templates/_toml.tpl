{{/* The gateway's file. A scalar's JSON is TOML; a table within a table is written inline. */}}
{{- define "switchgear.toml" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key, $value := . -}}{{- if not (kindIs "invalid" $value) -}}
{{- if not $first }},{{ end }} {{ toJson $key }} = {{ include "switchgear.toml" $value }}{{- $first = false -}}
{{- end -}}{{- end }} }
{{- else if kindIs "slice" . -}}
[{{- range $index, $value := . -}}{{- if $index }}, {{ end }}{{ include "switchgear.toml" $value }}{{- end -}}]
{{- else -}}
{{- toRawJson . -}}
{{- end -}}
{{- end -}}

{{- define "switchgear.tomlTable" -}}
{{- range $key, $value := . }}{{ if not (kindIs "invalid" $value) }}
{{ toJson $key }} = {{ include "switchgear.toml" $value }}
{{- end }}{{ end }}
{{- end -}}

{{- define "switchgear.configuration" -}}
{{- $root := . -}}
{{- $v := .Values -}}
{{- $config := deepCopy $v.config -}}
{{- $server := merge (dict "host" "0.0.0.0" "port" 8080 "state_dir" "/var/lib/switchgear/state" "drain_s" $v.gateway.drainSeconds) ($config.server | default dict) -}}
{{- if $v.secrets.metricsToken.name }}{{ $_ := set $server "metrics_token_env" "METRICS_TOKEN" }}{{ end -}}
{{- $redis := merge (dict "url" $v.redis.url) ($config.redis | default dict) -}}
{{- if $v.secrets.redisPassword.name }}{{ $_ := set $redis "password_env" "REDIS_PASSWORD" }}{{ end -}}
{{- $kubernetes := merge (dict "lease" (include "switchgear.name" .) "evict" $v.spot.evict) ($config.kubernetes | default dict) -}}
{{- $tables := merge (dict "server" $server "database" (dict "url" $v.database.url) "redis" $redis "kubernetes" $kubernetes) $config -}}
{{- range $name, $table := $tables }}
[{{ $name }}]
{{- include "switchgear.tomlTable" $table }}
{{ end }}
{{- range $model := $v.models }}
[[models]]
{{- $workloads := list -}}
{{- range (include "switchgear.workloads" $root | fromJsonArray) -}}
{{- if eq .model.name $model.name -}}
{{- $workloads = append $workloads (dict "name" .name "kind" .kind "version" .version.name "weight" .weight) -}}
{{- end -}}{{- end -}}
{{- $pods := dict "workloads" $workloads "namespace" ($model.namespace | default $root.Release.Namespace)
      "min_replicas" (int $model.minReplicas) "idle_s" $v.scaling.idleSeconds "max_concurrency" $model.maxConcurrency -}}
{{- $own := dict "name" $model.name "kind" ($model.kind | default "chat") "engine" ($model.engine | default "vllm")
      "upstream_model" $model.name "price" $model.price "context_tokens" $model.contextTokens "slo_ttft_ms" $model.sloTtftMs "kubernetes" $pods -}}
{{- if gt (len $model.versions) 1 }}{{ $_ := set $own "policy" "weighted" }}{{ end -}}
{{- include "switchgear.tomlTable" (mergeOverwrite $own ($model.settings | default dict)) }}
{{ end }}
{{- range $name, $list := dict "routes" $v.routes "keys" $v.keys }}
{{- range $list }}
[[{{ $name }}]]
{{- include "switchgear.tomlTable" . }}
{{ end }}
{{- end }}
{{- end -}}
