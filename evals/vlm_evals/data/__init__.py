"""Files: COCO's annotations, the truth made of them, captions, questions and answers."""
