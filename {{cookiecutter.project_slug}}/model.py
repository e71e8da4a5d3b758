{% include "tasks/" ~ cookiecutter.task_type ~ "/model.py" -%}
