{{- define "fraudstream.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "fraudstream.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fraudstream.labels" -}}
{{ include "fraudstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "fraudstream.partitions" -}}
{{ int (get .Values.settings "FRAUDSTREAM_PARTITIONS" | default 4) }}
{{- end }}

{{- define "fraudstream.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* What all pods have in common: who they are, and what they must not do. */ -}}
{{- define "fraudstream.pod" -}}
automountServiceAccountToken: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- /* Kubernetes would set FRAUDSTREAM_PORT and the like for each Service, and a name that is no setting ends every command. */}}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "fraudstream.container" -}}
image: {{ include "fraudstream.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* Of `settings` and `secretSettings`. */ -}}
{{- define "fraudstream.env" -}}
{{- range $name, $value := .settings }}
- name: {{ $name }}
  {{- /* a large number is a float to Helm, which would write 1.34217728e+08 */}}
  value: {{ if kindIs "float64" $value }}{{ if eq $value (floor $value) }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- range $name, $secret := .secretSettings }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}
{{- end }}
{{- end }}

{{- /* Everybody's settings; the notifier's own replace those of the same name. */ -}}
{{- define "fraudstream.notifyEnv" -}}
{{- $settings := dict }}
{{- range list .Values.settings .Values.notify.settings }}
{{- range $name, $value := . }}{{- $_ := set $settings $name $value }}{{- end }}
{{- end }}
{{- $secrets := dict }}
{{- range list .Values.secretSettings .Values.notify.secretSettings }}
{{- range $name, $secret := . }}{{- $_ := set $secrets $name $secret }}{{- end }}
{{- end }}
{{- include "fraudstream.env" (dict "settings" $settings "secretSettings" $secrets) }}
{{- end }}

{{- define "fraudstream.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/fraudstream/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "fraudstream.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with .Values.tls.secretName }}
- name: tls
  secret: {secretName: {{ . | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "fraudstream.egress" -}}
- ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- include "fraudstream.destinations" .Values.networkPolicy.egress }}
{{- end }}

{{- define "fraudstream.destinations" -}}
{{- range . }}
- ports: {{- toYaml .ports | nindent 4 }}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
