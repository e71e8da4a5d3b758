{% include "tasks/" ~ cookiecutter.task_type ~ "/data.py" -%}
