"""Who is at the desk: roles, grants, what needs a second person, and the record of what people did
(design, rule 18).
"""
