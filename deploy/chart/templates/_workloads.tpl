{{/*
Every workload of engines as JSON, computed once for all templates: a model's versions, and of each that runs
on spot machines a second one, its floor on machines that stay. `share` is the version's part of the traffic.
*/}}
{{- define "switchgear.workloads" -}}
{{- $found := list -}}
{{- $root := . -}}
{{- range $model := .Values.models -}}
{{- $spot := $model.spot | default dict -}}
{{- $total := 0.0 -}}
{{- range $model.versions }}{{ $total = addf $total (hasKey . "weight" | ternary .weight 1.0) }}{{ end -}}
{{- range $version := $model.versions -}}
{{- $weight := hasKey $version "weight" | ternary $version.weight 1.0 -}}
{{- $name := printf "%s-%s-%s" (include "switchgear.name" $root) (include "switchgear.slug" $model.name) (include "switchgear.slug" $version.name) | trunc 52 | trimSuffix "-" -}}
{{- $floor := int ($spot.onDemand | default 0) -}}
{{- $common := dict
      "model" (omit $model "versions") "version" $version "namespace" ($model.namespace | default $root.Release.Namespace)
      "kind" ($version.kind | default "Deployment") "weight" $weight "share" (divf $weight $total) -}}
{{- $least := max 0 (sub (int $model.minReplicas) $floor) -}}
{{- $found = append $found (merge (dict
      "name" $name "pool" (ternary "spot" "any" ($spot.enabled | default false)) "elastic" true "floor" $floor
      "least" $least "most" (sub (int ($model.maxReplicas | default (max 1 (int $model.minReplicas)))) $floor)) $common) -}}
{{- if $floor -}}
{{- $found = append $found (merge (dict
      "name" (printf "%s-floor" $name) "pool" "on-demand" "elastic" false "floor" 0 "least" $floor "most" $floor) $common) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* The namespaces that have engines, as JSON. */}}
{{- define "switchgear.namespaces" -}}
{{- $found := list -}}
{{- range (include "switchgear.workloads" . | fromJsonArray) }}{{ $found = append $found .namespace }}{{ end -}}
{{- $found | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "switchgear.engineLabels" -}}
app.kubernetes.io/name: switchgear-engine
app.kubernetes.io/instance: {{ .name }}
{{- end -}}
