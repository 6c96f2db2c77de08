{{/* What the schema cannot say: relations between values. Each message names the value and the remedy. */}}
{{- define "switchgear.checks" -}}
{{- $v := .Values -}}
{{- if not $v.models }}{{ fail "models: there are none; add at least one, with name, weights, price and versions" }}{{ end -}}
{{- if not $v.database.url }}{{ fail "database.url: it is empty; several gateways share a PostgreSQL, give postgresql://user@host:5432/name" }}{{ end -}}
{{- if regexMatch "://[^/@]*:[^/@]*@" $v.database.url }}{{ fail "database.url: it holds a password; take it out and name a Secret in secrets.databasePassword" }}{{ end -}}
{{- if not $v.redis.url }}{{ fail "redis.url: it is empty; several gateways share limits and streams in Redis, give redis://host:6379/0" }}{{ end -}}
{{- if regexMatch "://[^/@]*:[^/@]+@" $v.redis.url }}{{ fail "redis.url: it holds a password; take it out and name a Secret in secrets.redisPassword" }}{{ end -}}
{{- if not $v.secrets.adminKey.name }}{{ fail "secrets.adminKey.name: it is empty; make a Secret with a random key of 32 characters or more, and name it here" }}{{ end -}}
{{- $auto := $v.gateway.autoscaling -}}
{{- if and $auto.enabled (lt (int $auto.max) (int $auto.min)) }}{{ fail (printf "gateway.autoscaling: max %v is less than min %v" $auto.max $auto.min) }}{{ end -}}
{{- $tenants := list .Release.Namespace -}}
{{- range $v.tenants }}{{ $tenants = append $tenants .name }}{{ end -}}
{{- $names := dict -}}
{{- range $index, $model := $v.models -}}
{{- $at := printf "models[%d] (%s)" $index $model.name -}}
{{- if hasKey $names $model.name }}{{ fail (printf "%s: the name is given twice; names are unique" $at) }}{{ end -}}
{{- $_ := set $names $model.name true -}}
{{- $spot := $model.spot | default dict -}}
{{- $floor := int ($spot.onDemand | default 0) -}}
{{- $most := int ($model.maxReplicas | default (max 1 (int $model.minReplicas))) -}}
{{- if and $floor (not $spot.enabled) }}{{ fail (printf "%s: spot.onDemand is a floor under spot replicas; set spot.enabled, or minReplicas instead" $at) }}{{ end -}}
{{- if and $floor (eq (int $model.minReplicas) 0) }}{{ fail (printf "%s: spot.onDemand keeps replicas that minReplicas: 0 would end; raise minReplicas, or set spot.onDemand to 0" $at) }}{{ end -}}
{{- if gt (int $model.minReplicas) $most }}{{ fail (printf "%s: maxReplicas %d is less than minReplicas %v" $at $most $model.minReplicas) }}{{ end -}}
{{- if and $floor (le $most $floor) }}{{ fail (printf "%s: maxReplicas %d leaves no spot replica above spot.onDemand %d" $at $most $floor) }}{{ end -}}
{{- if and $model.namespace (not (has $model.namespace $tenants)) }}{{ fail (printf "%s: namespace %q is no tenant; add it to tenants, with create: false where it exists" $at $model.namespace) }}{{ end -}}
{{- end -}}
{{- $made := dict -}}
{{- range (include "switchgear.workloads" . | fromJsonArray) -}}
{{- if hasKey $made .name }}{{ fail (printf "models: two of them make a workload named %q; choose names that differ in letters and digits" .name) }}{{ end -}}
{{- $_ := set $made .name true -}}
{{- end -}}
{{- range $index, $route := $v.routes -}}
{{- range $route.tiers }}{{ if not (hasKey $names .) }}{{ fail (printf "routes[%d] (%s): tier %q is no model; name one of models" $index $route.name .) }}{{ end }}{{ end -}}
{{- end -}}
{{- end -}}
